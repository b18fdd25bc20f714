"""Exposure by the sheet's numbers, and the extrapolation beside distributions whose tails are known."""

import math

import pytest
import torch
from scipy.stats import norm
from torch.testing import assert_close

from limbeck.core.errors import ShapeError, UsageError
from limbeck.evaluation.exposure import candidate_losses, exposure, extrapolated_exposure


def test_exposures_of_the_sheet() -> None:
    many = torch.arange(10_000)
    assert [exposure(many, rank - 1) for rank in (1, 5000, 10_000)] == pytest.approx([13.287712, 1.0, 0.0], abs=1e-6)
    perplexities = torch.tensor([12.0, 3, 8, 5, 20, 7, 9, 30])
    assert exposure(perplexities, 1) == pytest.approx(3.0)
    assert exposure(perplexities, 5) == pytest.approx(1.415037, abs=1e-6)
    assert exposure(perplexities.log(), 5) == exposure(perplexities, 5)


def test_equal_losses_share_their_ranks() -> None:
    """Four alike have rank 2.5: a model that tells nothing apart exposes log2(4 / 2.5) bits."""
    assert exposure(torch.ones(4), 2) == pytest.approx(math.log2(1.6))


def test_the_losses_are_those_of_the_fill_alone() -> None:
    """Two tokens of the fill with p = 1/2 and 1/4: log 8 nats; what is not of the fill, and its label, does not count."""
    logits = torch.tensor([[[0.5, 0.5], [0.25, 0.75], [0.9, 0.1]]]).log()
    found = candidate_losses(logits, torch.tensor([[1, 0, -100]]), torch.tensor([[True, True, False]]))
    assert_close(found, torch.tensor([math.log(8)], dtype=torch.float64))


@pytest.mark.parametrize("sigmas", [0.0, -2.0, -5.0, -9.0])
def test_the_extrapolation_follows_a_normal_distribution(sigmas: float) -> None:
    """Its quantiles stand for a sample. At nine standard deviations the distribution function itself would be 1e-19."""
    sampled = torch.from_numpy(norm.ppf((torch.arange(2000).double() + 0.5).numpy() / 2000, loc=30, scale=3))
    wanted = -norm.logcdf(sigmas) / math.log(2)
    assert extrapolated_exposure(30 + 3 * sigmas, sampled) == pytest.approx(wanted, rel=0.05, abs=0.02)


def test_what_is_refused() -> None:
    with pytest.raises(UsageError, match="exposure: expected losses"):
        exposure(torch.ones(3), 3)
    with pytest.raises(UsageError, match="at least 100 different candidates"):
        extrapolated_exposure(1.0, torch.ones(200))
    with pytest.raises(ShapeError, match="candidate_losses: expected logits"):
        candidate_losses(torch.zeros(2, 3), torch.zeros(2, 3).long(), torch.ones(2, 3).bool())
