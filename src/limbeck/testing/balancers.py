"""Properties that every balancer has: each takes a function that makes one, and fails with an assertion."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor

from limbeck.balancing.balancer import Balancer
from limbeck.losses.labels.ce import CE
from limbeck.losses.logits.kd import KD
from limbeck.testing.makers import normal

Maker = Callable[[], Balancer]
LOSSES = torch.tensor([1.5, 0.7])
SEEDS = 6


def gramian(seed: int) -> Tensor:
    """Inner products of two random gradients, [2, 2]."""
    g = normal(2, 4, seed=seed)
    return g @ g.T


def started(make: Maker) -> tuple[Balancer, Tensor]:
    """A balancer of two terms, and its first factors."""
    balancer = make()
    return balancer, balancer.start(KD() + CE())


def assert_factors(make: Maker) -> None:
    """Factors are finite numbers, at least 0, without a graph; figures are plain numbers."""
    balancer, first = started(make)
    found = [first, *(balancer.factors(LOSSES, gramian(seed)) for seed in range(SEEDS)), balancer.factors(LOSSES, None)]
    for factors in found:
        assert factors.shape == (2,)
        assert torch.isfinite(factors).all()
        assert (factors >= 0).all()
        assert not factors.requires_grad
    assert all(isinstance(value, float) for value in balancer.figures().values())


def assert_nothing_else_moves(make: Maker) -> None:
    """What it is given and the global random numbers stay as they are."""
    balancer, _ = started(make)
    given, losses, random = gramian(0), LOSSES.clone(), torch.get_rng_state()
    balancer.factors(losses, given)
    assert torch.equal(given, gramian(0))
    assert torch.equal(losses, LOSSES)
    assert torch.equal(torch.get_rng_state(), random)


def assert_state_goes_on(make: Maker) -> None:
    """A twin that takes its state goes on alike; a state is not changed by what comes after it."""
    balancer, _ = started(make)
    for seed in range(3):
        balancer.factors(LOSSES, gramian(seed))
    twin, _ = started(make)
    kept = balancer.state()
    twin.load_state(copy.deepcopy(kept))
    ours = [balancer.factors(LOSSES, gramian(seed)) for seed in range(3, SEEDS)]
    assert all(torch.equal(mine, twin.factors(LOSSES, gramian(seed))) for seed, mine in zip(range(3, SEEDS), ours, strict=True))
    late, _ = started(make)
    late.load_state(kept)
    assert torch.equal(late.factors(LOSSES, gramian(3)), ours[0])


PROPERTIES: tuple[Callable[[Maker], None], ...] = (assert_factors, assert_nothing_else_moves, assert_state_goes_on)
