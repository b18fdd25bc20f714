"""PCGrad, MGDA, CAGrad and UPGrad against brute force on small Gramians, and what they do to a run."""

import sys
from collections.abc import Callable
from itertools import permutations
from typing import Any

import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor
from torch.testing import assert_close

from limbeck.balancing.multi_task import MGDA, CAGrad, MultiTask, PCGrad, UPGrad
from limbeck.core.errors import MissingExtraError, UsageError
from limbeck.losses.labels.ce import CE
from limbeck.losses.logits.kd import KD
from support.makers import normal

ALL = [PCGrad, MGDA, CAGrad, UPGrad]
SEEDS = range(6)


def found(balancer: MultiTask, g: Tensor) -> Tensor:
    """The factors for the rows of g as the terms' gradients."""
    objective = KD() + CE()
    for _ in range(len(g) - 2):
        objective = objective + CE()
    balancer.start(objective)
    return balancer.factors(torch.ones(len(g), dtype=g.dtype), g @ g.T)


def conflicting(count: int, seed: int) -> Tensor:
    return normal(count, 5, seed=seed) - 0.3 * normal(1, 5, seed=100 + seed)


@pytest.mark.parametrize("make, times", [(PCGrad, 1.0), (MGDA, 1.0), (UPGrad, 1.0), (lambda: CAGrad(c=0.0), 1.0), (CAGrad, 1.4)])
def test_equal_gradients_are_added_up(make: Callable[[], MultiTask], times: float) -> None:
    """Where all gain alike, CAGrad goes to the edge of its ball: 1 + c times the sum."""
    g = normal(5, seed=0).expand(2, 5)
    assert_close(found(make(), g) @ g, times * g.sum(0), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("make", ALL, ids=lambda make: make.__name__)
@pytest.mark.parametrize("scale", [1e-6, 1e3])
def test_the_size_of_the_gradients_does_not_count(make: Callable[[], MultiTask], scale: float) -> None:
    g = conflicting(3, 1)
    assert_close(found(make(), scale * g), found(make(), g), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("make", ALL, ids=lambda make: make.__name__)
def test_no_gradients_are_no_change(make: Callable[[], MultiTask]) -> None:
    assert found(make(), torch.zeros(2, 5, dtype=torch.float64)).tolist() == [1, 1]
    assert make().factors(torch.ones(2), None).tolist() == [1, 1]


def test_pcgrad_by_hand() -> None:
    """g_1 = (1, 0), g_2 = (-1, 1): <g_1, g_2> = -1, so g_1 + g_2 / 2 and g_2 + g_1; together 2 g_1 + 1.5 g_2."""
    assert found(PCGrad(), torch.tensor([[1.0, 0.0], [-1.0, 1.0]], dtype=torch.float64)).tolist() == [2.0, 1.5]


@pytest.mark.parametrize("seed", SEEDS)
def test_pcgrad_is_the_papers_loop_in_some_order(seed: int) -> None:
    g = conflicting(3, seed)
    sums = []
    for orders in [(p, q, r) for p in permutations((1, 2)) for q in permutations((0, 2)) for r in permutations((0, 1))]:
        total = torch.zeros(5, dtype=torch.float64)
        for i, order in enumerate(orders):
            own = g[i]
            for j in order:
                own = own - min(float(own @ g[j]), 0.0) / float(g[j] @ g[j]) * g[j]
            total = total + own
        sums.append(total)
    ours = found(PCGrad(), g) @ g
    assert min(float((ours - total).norm()) for total in sums) < 1e-10


def test_pcgrad_draws_by_its_step_and_leaves_the_global_numbers_alone() -> None:
    g = normal(4, 3, seed=0) - 0.8 * normal(1, 3, seed=100)
    state = torch.get_rng_state()
    one, two = PCGrad(), PCGrad()
    first = [found(one, g) for _ in range(8)]
    assert torch.equal(torch.get_rng_state(), state)
    assert len({str(row) for row in first}) > 1
    for _ in range(4):
        found(two, g)
    resumed = PCGrad()
    resumed.load_state(two.state())
    assert [found(resumed, g).tolist() for _ in range(4)] == [row.tolist() for row in first[4:]]


@pytest.mark.parametrize("seed", SEEDS)
def test_mgda_is_the_shortest_convex_combination(seed: int) -> None:
    g = conflicting(3, seed)
    ours = found(MGDA(), g)
    assert float(ours.sum()) == pytest.approx(3)
    assert (ours >= 0).all()
    steps = torch.linspace(0, 1, 101, dtype=torch.float64)
    x, y = torch.meshgrid(steps, steps, indexing="ij")
    mixes = torch.stack([x, y, 1 - x - y], -1)[x + y <= 1 + 1e-9]
    shortest = float((mixes @ g).norm(dim=1).min())
    assert float((ours / 3 @ g).norm()) <= shortest + 0.02 * float(g.norm())


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("c", [0.2, 0.4, 0.8])
def test_cagrad_is_the_best_worst_gain_in_its_ball(seed: int, c: float) -> None:
    """The paper's primal problem: max over |d - g_0| <= c |g_0| of min_k <g_k, d>, g_0 the mean."""
    g = conflicting(3, seed)
    mean = g.mean(0)

    def worst(step: Tensor) -> float:
        return float((g @ step).min())

    ours = found(CAGrad(c=c), g) @ g / 3
    assert float((ours - mean).norm()) <= c * float(mean.norm()) + 1e-6
    constraints = [
        {"type": "ineq", "fun": lambda z: c**2 * float(mean @ mean) - float((torch.from_numpy(z[:5]) - mean).square().sum())},
        {"type": "ineq", "fun": lambda z: (g.numpy() @ z[:5]) - z[5]},
    ]
    start = torch.cat([mean, torch.tensor([worst(mean)])]).numpy()
    best = minimize(lambda z: -z[5], start, constraints=constraints, method="SLSQP", options={"ftol": 1e-12, "maxiter": 300})
    assert worst(ours) == pytest.approx(-best.fun, rel=1e-3)


@pytest.mark.parametrize("seed", SEEDS)
def test_upgrad_adds_up_projections_onto_the_dual_cone(seed: int) -> None:
    """Each projection by a general solver: the nearest point to g_k among those with no negative inner product."""
    g = conflicting(3, seed)
    total = torch.zeros(5, dtype=torch.float64)
    for own in g:
        cone = {"type": "ineq", "fun": lambda z: g.numpy() @ z}
        nearest = minimize(
            lambda z, own=own: float((torch.from_numpy(z) - own).square().sum()),
            own.numpy(),
            constraints=[cone],
            method="SLSQP",
            options={"ftol": 1e-14},
        )
        total = total + torch.from_numpy(nearest.x)
    ours = found(UPGrad(), g) @ g
    assert_close(ours, total, rtol=0, atol=1e-5)
    assert (g @ ours >= -1e-9).all()


def test_upgrad_of_two_is_pcgrad() -> None:
    g = torch.tensor([[1.0, 0.0], [-1.0, 1.0]], dtype=torch.float64)
    assert_close(found(UPGrad(), g), torch.tensor([2.0, 1.5], dtype=torch.float64))


def test_factors_are_logged_by_name() -> None:
    ours = PCGrad()
    found(ours, torch.tensor([[1.0, 0.0], [-1.0, 1.0]], dtype=torch.float64))
    assert ours.figures() == {"factor_KD": 2.0, "factor_CE": 1.5}


@pytest.mark.parametrize("make", [PCGrad, MGDA, CAGrad], ids=lambda make: make.__name__)
def test_a_missing_library_is_one_sentence(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchjd.aggregation", None)
    with pytest.raises(MissingExtraError, match=rf"{make.__name__} needs the package torchjd: pip install limbeck\[balance\]"):
        make()


def test_arguments_that_do_not_fit() -> None:
    with pytest.raises(UsageError, match="UPGrad: level must be"):
        UPGrad(level="none")
    with pytest.raises(UsageError, match="CAGrad: c must be"):
        CAGrad(c=-1.0)
