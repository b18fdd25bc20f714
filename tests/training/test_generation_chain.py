"""Nets that teach the next: who teaches whom."""

import pytest
import torch
from torch import nn

from limbeck.core.batch import Batch
from limbeck.core.errors import UsageError
from limbeck.teachers.ensemble import Ensemble
from limbeck.teachers.single import Single
from limbeck.teachers.teacher import Teacher
from limbeck.training.generations import generations

BATCH = Batch(torch.ones(1, 1), None, torch.arange(1))


def saying(first: float) -> nn.Module:
    model = nn.Linear(1, 2)
    with torch.no_grad():
        model.weight.zero_()
        model.bias.copy_(torch.tensor([first, 0.0]))
    return model


def heard(anchor: float, combine: str = "logit") -> list[float]:
    """What each generation hears, where generation k says k + 1 and the base 10."""
    told: list[float] = []

    def train(teacher: Teacher, number: int) -> nn.Module:
        told.append(float(teacher(BATCH).logits[0, 0]))
        return saying(number + 1)

    assert len(list(generations(Single(saying(10)), train, 4, anchor=anchor, combine=combine))) == 4
    return told


def test_born_again_nets_learn_from_the_one_before() -> None:
    assert heard(0.0) == [10, 1, 2, 3]


def test_with_anchor_1_all_learn_from_the_base() -> None:
    assert heard(1.0) == [10, 10, 10, 10]


def test_anchored_nets_learn_from_both() -> None:
    assert heard(0.25) == pytest.approx([10, 0.25 * 10 + 0.75 * 1, 0.25 * 10 + 0.75 * 2, 0.25 * 10 + 0.75 * 3])


def test_the_linear_operator_mixes_probabilities() -> None:
    found: list[Teacher] = []

    def train(teacher: Teacher, number: int) -> nn.Module:
        found.append(teacher)
        return saying(number + 1)

    list(generations(Single(saying(10)), train, 2, anchor=0.5))
    assert isinstance(found[1], Ensemble)
    wanted = (torch.tensor([10.0, 0]).softmax(0) + torch.tensor([1.0, 0]).softmax(0)) / 2
    torch.testing.assert_close(found[1](BATCH).logits[0].exp(), wanted)


def test_nothing_is_trained_ahead() -> None:
    trained: list[int] = []

    def train(teacher: Teacher, number: int) -> nn.Module:
        trained.append(number)
        return saying(0)

    next(generations(Single(saying(10)), train, 3))
    assert trained == [0]


def test_what_is_refused() -> None:
    for options, said in ({"count": 0}, "count"), ({"count": 2, "anchor": 1.5}, "anchor"):
        with pytest.raises(UsageError, match=f"generations: {said}"):
            next(generations(Single(saying(1)), lambda teacher, number: saying(1), **options))  # type: ignore[arg-type]
