"""Weights do what the theorem says: refitting with them lowers the query loss, and flipped labels lose weight."""

from typing import get_args

import pytest
import torch
from torch import Tensor

from limbeck.weighting.squash import Normalise, mean_one, normalise, squash
from support.convex import SoftmaxRegression, regression


def refitted(problem: SoftmaxRegression, *rows: Tensor) -> list[float]:
    """Query loss of the model fitted with all weights 1, and fitted anew with each row of weights."""
    return problem.query_loss(problem.fit(torch.stack([torch.ones_like(rows[0]), *rows]))).tolist()


@pytest.mark.parametrize("alpha", [0.5, 1.0])
@pytest.mark.parametrize("seed", [0, 40])
def test_refitting_with_the_weights_lowers_the_query_loss(alpha: float, seed: int) -> None:
    """Invariant 10, for every mode that the package offers, with and without the scaling of the mean."""
    problem = regression(alpha, seed=seed)
    weights = {mode: squash(normalise(problem.exact_phi, mode)) for mode in get_args(Normalise)}
    before, *after = refitted(problem, *weights.values(), *(mean_one(row) for row in weights.values()))
    assert max(after) < before, dict(zip(weights, after, strict=False))


def test_the_first_order_change_is_foretold() -> None:
    """(1/N) sum (w - 1) phi is the derivative of the query loss along the weights."""
    problem = regression()
    change = squash(normalise(problem.exact_phi, "std")) - 1
    for share in (1e-2, 1e-3):
        before, after = refitted(problem, 1 + share * change)
        assert (after - before) / share == pytest.approx(float((change * problem.exact_phi).mean()), rel=10 * share)


def test_the_other_sign_raises_the_query_loss() -> None:
    """exp(+ score), as in the released notebook, weighs harmful samples up."""
    problem = regression()
    phi = problem.exact_phi
    scaled = 2 * (phi - phi.min()) / (phi.max() - phi.min()) - 1
    before, after = refitted(problem, scaled.exp())
    assert after > before


@pytest.mark.parametrize("alpha, flips", [(0.5, 0.15), (0.5, 0.2), (1.0, 0.2)])
def test_flipped_labels_lose_weight(alpha: float, flips: float) -> None:
    """Invariant 11: mean weight of the flipped < 1 < mean weight of the clean."""
    for seed in (0, 40):
        problem = regression(alpha, flips, seed)
        for mode in ("std", "zscore", "rms"):
            weights = squash(normalise(problem.exact_phi, mode))
            assert weights[problem.flipped].mean() < 1 < weights[~problem.flipped].mean()


def test_weight_nought_is_leaving_the_sample_out() -> None:
    problem = regression()
    weights = torch.ones(problem.count, dtype=torch.float64)
    weights[7] = 0
    before, after = refitted(problem, weights)
    assert after - before == pytest.approx(float(problem.left_out[7]), rel=1e-9)
