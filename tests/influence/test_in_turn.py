"""A query set whose parts have their turn: against the mean written out, sample by sample."""

import copy

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from limbeck.core.batch import Batch
from limbeck.core.errors import RunError
from limbeck.influence.in_turn import InTurn, parts_of
from limbeck.influence.vectors import Vector
from support.makers import normal

QUERIES = Batch(normal(11, 3, seed=5), torch.arange(11), torch.arange(11))


def squares(at: Tensor, few: Batch) -> tuple[Vector, float]:
    """The mean of |x - at|^2 / 2 and its gradient, at - mean x."""
    return {"at": at - few.inputs.mean(0)}, float((few.inputs - at).square().sum(1).mean() / 2)


@pytest.mark.parametrize("parts", [1, 2, 3, 11])
def test_at_one_place_it_is_the_gradient_of_the_whole_set_however_often_it_is_asked(parts: int) -> None:
    at, turned = normal(3, seed=1), InTurn(parts)
    wanted, loss = squares(at, QUERIES)
    for _ in range(5):
        found, mean = turned(QUERIES, lambda few: squares(at, few))
        assert_close(found, wanted)
        assert mean == pytest.approx(loss, rel=1e-12)


def test_on_the_way_each_sample_counts_where_it_was_last_asked() -> None:
    """Sample i is in part i mod 3; all are asked at the first place, then one part at each."""
    places, turned = [normal(3, seed=seed) for seed in range(8)], InTurn(3)
    last = dict.fromkeys(range(3), 0)
    for number, at in enumerate(places):
        if number:
            last[(number - 1) % 3] = number
        found, _ = turned(QUERIES, lambda few, at=at: squares(at, few))  # type: ignore[misc]
        slopes = [places[last[row % 3]] - QUERIES.inputs[row] for row in range(11)]
        assert_close(found["at"], torch.stack(slopes).mean(0))
    assert last == {0: 7, 1: 5, 2: 6}


def test_a_renewal_reads_one_part_only() -> None:
    read: list[list[int]] = []

    def of(few: Batch) -> tuple[Vector, float]:
        read.append(few.index.tolist())
        return squares(few.inputs[0], few)

    turned = InTurn(3)
    for _ in range(5):
        turned(QUERIES, of)
    first, second, third = [0, 3, 6, 9], [1, 4, 7, 10], [2, 5, 8]
    assert read == [first, second, third, first, second, third, first]


def test_what_was_kept_does_not_change_under_the_mean_that_was_handed_out() -> None:
    at, turned = normal(3, seed=1), InTurn(3)
    first, _ = turned(QUERIES, lambda few: squares(at, few))
    before = first["at"].clone()
    first["at"].mul_(5)
    assert_close(turned(QUERIES, lambda few: squares(at, few))[0]["at"], before)


def test_state_makes_the_next_gradient_the_same_to_the_bit() -> None:
    turned = InTurn(3)
    for seed in range(6):
        turned(QUERIES, lambda few, seed=seed: squares(normal(3, seed=seed), few))  # type: ignore[misc]
    other = InTurn(3)
    other.load_state(copy.deepcopy(turned.state()))
    wanted, found = (one(QUERIES, lambda few: squares(normal(3, seed=9), few)) for one in (turned, other))
    assert torch.equal(found[0]["at"], wanted[0]["at"])
    assert found[1] == wanted[1]
    fresh = InTurn(3)
    fresh.load_state(InTurn(3).state())
    assert fresh.kept == []
    with pytest.raises(ValueError, match="in 3 parts before, and has it in 2 now"):
        InTurn(2).load_state(turned.state())
    with pytest.raises(RunError, match="had 11 samples before, and has 10 now"):
        other(QUERIES.take(slice(0, 10)), lambda few: squares(normal(3), few))


@pytest.mark.parametrize(
    ("count", "most", "parts"), [(20, 4, 1), (127, 4, 1), (128, 4, 2), (200, 4, 3), (1000, 4, 4), (200, 0, 1)]
)
def test_a_part_has_as_many_samples_as_a_batch(count: int, most: int, parts: int) -> None:
    assert parts_of(count, most) == parts
