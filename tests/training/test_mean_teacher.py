"""A teacher that follows its student."""

from copy import deepcopy
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.testing import assert_close
from training_makers import Parts, half_and_half, net, parts, same, train

from limbeck.core.errors import UsageError
from limbeck.distiller import Distiller
from limbeck.teachers.single import Single
from limbeck.training.callback import Callback
from limbeck.training.checkpoint import Keeper
from limbeck.training.steps.mean_teacher import MeanTeacher, follow
from limbeck.training.training import Record, Training


def alike(kind: str = "mlp") -> Parts:
    made = parts(kind=kind)
    made.distiller = Distiller(made.distiller.student.model, Single(net(kind, seed=9)), half_and_half())
    return made


class Way(Callback):
    """The student after each step."""

    def __init__(self) -> None:
        self.seen: list[dict[str, torch.Tensor]] = []

    def after_step(self, training: Training, record: Record) -> None:
        self.seen.append(deepcopy(training.distiller.student.model.state_dict()))


def test_golden_numbers() -> None:
    """Weights 1, 2, 4, 8 with decay 0.9, begun at the first: 1, 1.1, 1.39, 2.051 (wakd.md)."""
    mean, model = nn.Linear(1, 1, bias=False).double(), nn.Linear(1, 1, bias=False).double()
    for number, weight in enumerate([1.0, 2.0, 4.0, 8.0]):
        nn.init.constant_(model.weight, weight)
        follow(mean, model, 0.9 if number else 0.0)
    assert mean.weight.item() == pytest.approx(2.051, abs=1e-12)


def test_it_follows_and_begins_as_a_copy() -> None:
    """With n the step, the share of the old is min(decay, 1 - 1 / n): 0, 1/2, then 0.6."""
    way = Way()
    ran = train(alike("batchnorm"), MeanTeacher(0.6), callbacks=[way], steps=4)
    names = [name for name, _ in ran.training.distiller.student.model.named_parameters()]
    for name in names:
        mean = way.seen[0][name]
        for share, state in zip([0.5, 0.6, 0.6], way.seen[1:], strict=True):
            mean = share * mean + (1 - share) * state[name]
        assert_close(ran.teacher[f"tapped.model.{name}"], mean)
    buffers = [name for name in way.seen[-1] if name not in names]
    assert buffers
    assert all(torch.equal(ran.teacher[f"tapped.model.{name}"], way.seen[-1][name]) for name in buffers)


def test_the_teacher_gets_no_gradient_and_a_decay_of_0_is_the_student() -> None:
    ran = train(alike(), MeanTeacher(0.0), steps=3)
    student = ran.training.distiller.student.model.state_dict()
    assert all(torch.equal(ran.teacher[f"tapped.model.{name}"], part) for name, part in student.items())
    assert all(part.grad is None for part in ran.training.distiller.teacher.parameters())


def test_it_is_resumed_exactly(tmp_path: Path) -> None:
    whole = train(alike(), MeanTeacher(0.9), steps=8)
    train(alike(), MeanTeacher(0.9), steps=8, keeper=Keeper(tmp_path / "a.pt", every=5, pause_s=0.0))
    resumed = train(alike(), MeanTeacher(0.9), steps=8, keeper=Keeper(tmp_path / "a.pt", every=5, pause_s=0.0))
    assert same(whole.teacher, resumed.teacher)
    assert same(whole.student, resumed.student)
    assert len(resumed.records) == 3


def test_what_is_refused() -> None:
    with pytest.raises(UsageError, match="MeanTeacher: decay must lie in"):
        MeanTeacher(1.1)
    with pytest.raises(UsageError, match="must be one model of the student's architecture"):
        train(parts(), MeanTeacher())
