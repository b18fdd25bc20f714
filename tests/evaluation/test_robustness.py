"""The worst case over a chi-square ball, against brute force (kd-aif.md, section 5 and invariant 17)."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from limbeck.core.errors import ShapeError, UsageError
from limbeck.evaluation.robustness import worst_case_loss
from support.makers import normal

rows = st.lists(st.floats(-100, 100), min_size=1, max_size=12)


def brute_force(losses: np.ndarray, delta: float) -> float:
    """The best of many searches over weights r >= 0 with mean 1 and mean (1 - r)^2 / 2 <= delta."""
    count = len(losses)
    rules = [
        {"type": "eq", "fun": lambda r: r.mean() - 1},
        {"type": "ineq", "fun": lambda r: delta - ((1 - r) ** 2).mean() / 2},
    ]
    best = -np.inf
    for seed in range(3):
        start = np.random.default_rng(seed).dirichlet(np.ones(count)) * count * 0.1 + 0.9
        found = minimize(
            lambda r: -(r * losses).mean(),
            start,
            bounds=[(0, None)] * count,
            constraints=rules,
            options={"ftol": 1e-14, "maxiter": 500},
        )
        if ((1 - found.x) ** 2).mean() / 2 <= delta + 1e-9:
            best = max(best, -found.fun)
    return float(best)


@pytest.mark.parametrize("delta", [0.001, 0.3, 0.8, 1.9])
@pytest.mark.parametrize("seed", range(2))
def test_dual_equals_brute_force_on_five_points(delta: float, seed: int) -> None:
    losses = normal(5, seed=seed).exp()
    assert worst_case_loss(losses, delta) == pytest.approx(brute_force(losses.numpy(), delta), abs=1e-6)


@settings(deadline=None, max_examples=30)
@given(values=rows, first=st.floats(0, 8), second=st.floats(0, 8))
def test_between_mean_and_maximum_and_never_falling(values: list[float], first: float, second: float) -> None:
    losses = torch.tensor(values, dtype=torch.float64)
    small, large = sorted((first, second))
    less, more = worst_case_loss(losses, small), worst_case_loss(losses, large)
    slack = 1e-9 * (1 + float(losses.abs().max()))
    assert float(losses.mean()) - slack <= less <= more + slack
    assert more <= float(losses.max()) + slack


@settings(deadline=None, max_examples=30)
@given(values=rows, delta=st.floats(0, 5), shift=st.floats(-50, 50), factor=st.floats(0.01, 100))
def test_shifts_and_scales_go_through(values: list[float], delta: float, shift: float, factor: float) -> None:
    losses = torch.tensor(values, dtype=torch.float64)
    plain = worst_case_loss(losses, delta)
    assert worst_case_loss(factor * losses + shift, delta) == pytest.approx(factor * plain + shift, rel=1e-7, abs=1e-6)


def test_in_a_small_ball_it_is_mean_plus_deviation() -> None:
    """While no weight reaches 0: mean + sqrt(2 delta) std."""
    losses = normal(50)
    delta = 0.02
    assert worst_case_loss(losses, delta) == pytest.approx(
        float(losses.mean() + (2 * delta) ** 0.5 * losses.std(correction=0)), rel=1e-9
    )


def test_ends_of_the_ball() -> None:
    losses = torch.tensor([0.5, 1.0, 4.0, 2.0])
    assert worst_case_loss(losses, 0) == pytest.approx(1.875)
    assert worst_case_loss(losses, 1.5) == 4
    assert worst_case_loss(losses, 1e9) == 4
    assert worst_case_loss(losses, 1.499) == pytest.approx(4, abs=1e-2)
    assert worst_case_loss(torch.full((6,), 0.3), 0.7) == pytest.approx(0.3)
    assert worst_case_loss(torch.tensor([2.0]), 0.7) == 2


def test_weights_made_of_scores_stay_in_their_ball() -> None:
    """A weighting with mean 1 is a Q of its own: its weighted loss is below the worst case of its own distance."""
    losses, weights = normal(40).exp(), normal(40, seed=1).exp()
    weights = weights / weights.mean()
    delta = float((1 - weights).square().mean() / 2)
    assert float((weights * losses).mean()) <= worst_case_loss(losses, delta) + 1e-12


def test_errors() -> None:
    for wrong in (torch.zeros(0), torch.zeros(2, 2), torch.tensor(1.0)):
        with pytest.raises(ShapeError, match="one loss per sample"):
            worst_case_loss(wrong, 0.1)
    with pytest.raises(UsageError, match="finite"):
        worst_case_loss(torch.tensor([1.0, float("nan")]), 0.1)
    with pytest.raises(UsageError, match="delta must be 0 or above"):
        worst_case_loss(torch.ones(3), -0.1)
