"""Every row of kind `balancers`, as its defaults make it."""

import copy

import pytest
import torch
from torch import Tensor

from limbeck.balancing.balancer import Balancer
from limbeck.catalogue import Row, rows
from limbeck.losses.labels.ce import CE
from limbeck.losses.logits.kd import KD
from support.makers import normal

LOSSES = torch.tensor([1.5, 0.7])
ROWS = pytest.mark.parametrize("row", rows("balancers"), ids=lambda row: row.name)


def started(row: Row) -> tuple[Balancer, Tensor]:
    balancer = row.resolve()()
    assert isinstance(balancer, Balancer)
    return balancer, balancer.start(KD() + CE())


def gramian(seed: int) -> Tensor:
    g = normal(2, 4, seed=seed)
    return g @ g.T


@ROWS
def test_factors_are_finite_not_negative_and_constant(row: Row) -> None:
    balancer, first = started(row)
    assert repr(balancer).startswith(f"{row.name}(")
    found = [first, *(balancer.factors(LOSSES, gramian(seed)) for seed in range(5)), balancer.factors(LOSSES, None)]
    for factors in found:
        assert factors.shape == (2,)
        assert torch.isfinite(factors).all()
        assert (factors >= 0).all()
        assert not factors.requires_grad
    assert all(isinstance(value, float) for value in balancer.figures().values())


@ROWS
def test_it_leaves_what_it_is_given_and_the_random_numbers_alone(row: Row) -> None:
    balancer, _ = started(row)
    given, losses, random = gramian(0), LOSSES.clone(), torch.get_rng_state()
    balancer.factors(losses, given)
    assert torch.equal(given, gramian(0))
    assert torch.equal(losses, LOSSES)
    assert torch.equal(torch.get_rng_state(), random)


@ROWS
def test_a_twin_that_takes_its_state_goes_on_alike(row: Row) -> None:
    balancer, _ = started(row)
    for seed in range(3):
        balancer.factors(LOSSES, gramian(seed))
    twin, _ = started(row)
    kept = balancer.state()
    twin.load_state(copy.deepcopy(kept))
    ours = [balancer.factors(LOSSES, gramian(seed)) for seed in range(3, 6)]
    assert all(torch.equal(mine, twin.factors(LOSSES, gramian(seed))) for seed, mine in zip(range(3, 6), ours, strict=True))
    late, _ = started(row)
    late.load_state(kept)  # a state is not changed by what comes after it
    assert torch.equal(late.factors(LOSSES, gramian(3)), ours[0])
