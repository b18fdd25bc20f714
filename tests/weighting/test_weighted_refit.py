"""Weights do what the theorem says: refitting with them lowers the query loss, and flipped labels lose weight."""

import pytest
import torch
from torch import Tensor

from limbeck.weighting.squash import Normalise, mean_one, normalise, squash
from support.convex import SoftmaxRegression

DEFAULTS: tuple[Normalise, ...] = ("none", "std", "rms", "median", "range")
SHIFTS: tuple[Normalise, ...] = ("zscore", "mad", "center")


def refitted(problem: SoftmaxRegression, weights: Tensor) -> tuple[float, float]:
    """Query loss with all weights 1, and of the model fitted anew with these weights."""
    before, after = problem.query_loss(problem.fit(torch.stack([torch.ones_like(weights), weights]))).tolist()
    return before, after


@pytest.mark.parametrize("mode", DEFAULTS + SHIFTS)
@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_refitting_with_the_weights_lowers_the_query_loss(mode: Normalise, alpha: float) -> None:
    """Invariant 10, for every mode that the package offers, with and without the scaling of the mean."""
    for seed in range(3):
        problem = SoftmaxRegression(alpha=alpha, seed=40 * seed)
        weights = squash(normalise(problem.phi(), mode))
        for used in (weights, mean_one(weights)):
            before, after = refitted(problem, used)
            assert after < before


def test_the_first_order_change_is_foretold() -> None:
    """(1/N) sum (w - 1) phi is the derivative of the query loss along the weights."""
    problem = SoftmaxRegression()
    phi = problem.phi()
    weights = squash(normalise(phi, "std"))
    for share in (1e-2, 1e-3):
        before, after = refitted(problem, 1 + share * (weights - 1))
        assert (after - before) / share == pytest.approx(float(((weights - 1) * phi).mean()), rel=10 * share)


def test_the_other_sign_raises_the_query_loss() -> None:
    """exp(+ score), as in the released notebook, weighs harmful samples up."""
    problem = SoftmaxRegression()
    phi = problem.phi()
    scaled = 2 * (phi - phi.min()) / (phi.max() - phi.min()) - 1
    before, after = refitted(problem, scaled.exp())
    assert after > before


@pytest.mark.parametrize("mode", ["std", "zscore", "rms"])
@pytest.mark.parametrize("alpha, flips", [(0.5, 0.1), (0.5, 0.2), (1.0, 0.2)])
def test_flipped_labels_lose_weight(mode: Normalise, alpha: float, flips: float) -> None:
    """Invariant 11: mean weight of the flipped < 1 < mean weight of the clean."""
    for seed in range(3):
        problem = SoftmaxRegression(alpha=alpha, flips=flips, seed=40 * seed)
        weights = squash(normalise(problem.phi(), mode))
        assert weights[problem.flipped].mean() < 1 < weights[~problem.flipped].mean()


def test_weight_nought_is_leaving_the_sample_out() -> None:
    problem = SoftmaxRegression()
    weights = torch.ones(problem.count, dtype=torch.float64)
    weights[7] = 0
    before, after = refitted(problem, weights)
    assert after - before == pytest.approx(float(problem.left_out[7]), rel=1e-9)
