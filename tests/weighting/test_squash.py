"""From score to weight: bounds, symmetry, every way to a common scale, and the scores that have none."""

from itertools import product
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from limbeck.core.errors import UsageError
from limbeck.weighting.squash import (
    Normalise,
    check_normalise,
    effective_sample_size,
    mean_one,
    normalise,
    saturated,
    squash,
)
from support.makers import normal

MODES: tuple[Normalise, ...] = get_args(Normalise)
KEEP_NOUGHT: tuple[Normalise, ...] = ("none", "std", "rms", "median", "range")
each_mode = pytest.mark.parametrize("mode", MODES)
scores = st.lists(st.floats(-1e6, 1e6, allow_subnormal=False), min_size=1, max_size=20)
any_score = st.floats(allow_nan=False, allow_infinity=False)
quick = settings(deadline=None, max_examples=30)


def row(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


@quick
@given(phi=any_score, gain=st.floats(0, 100), clamp=st.floats(0.1, 30))
def test_bounds_and_symmetry(phi: float, gain: float, clamp: float) -> None:
    """Invariant 8: 0 <= w <= 2, w(phi) + w(-phi) = 2, w(0) = 1; and no sample is switched off beyond the clamp."""
    up, down = squash(row([phi, -phi]), gain, clamp)
    assert 0 <= up <= 2
    assert float(up + down) == pytest.approx(2, abs=1e-12)
    assert squash(row([0]), gain, clamp) == 1
    floor = float(2 * torch.sigmoid(row([-clamp])))
    assert min(up, down) >= floor * (1 - 1e-12)


@quick
@given(phi=st.floats(-20, 20), step=st.floats(1e-6, 5), gain=st.floats(0.01, 10))
def test_decreasing_with_a_slope_of_at_most_half_the_gain(phi: float, step: float, gain: float) -> None:
    first, second = squash(row([phi, phi + step]), gain)
    assert second <= first
    assert float(first - second) <= gain / 2 * step + 1e-12
    if abs(gain * phi) < 4 and abs(gain * (phi + step)) < 4:
        assert second < first


def test_the_papers_form() -> None:
    z = torch.linspace(-3.9, 3.9, 11, dtype=torch.float64)
    assert_close(squash(z), 2 / (1 + z.exp()))
    assert_close(squash(z), 1 - torch.tanh(z / 2))
    assert torch.equal(squash(1e3 * z, gain=0), torch.ones(11, dtype=torch.float64))
    assert squash(row([1e300])).item() == pytest.approx(0.036, abs=1e-3)
    slope = torch.autograd.functional.jacobian(lambda s: squash(s, 3.0), torch.zeros(1, dtype=torch.float64))
    assert float(slope) == pytest.approx(-1.5)


@pytest.mark.parametrize("mode", ["std", "zscore", "center", "mad", "range"])
def test_equal_scores_weigh_exactly_one(mode: Normalise) -> None:
    """Invariant 9. The standard deviation of equal numbers need not be 0 in floating point: 1e-17 once made all weights 0.07."""
    for count, value, dtype in product((1, 3, 7, 10, 33, 64), (0, 0.1, -0.3, 1 / 3, 1e-30, -3e7), (torch.float32, torch.float64)):
        weights = mean_one(squash(normalise(torch.full((count,), value, dtype=dtype), mode), gain=4))
        assert torch.equal(weights, torch.ones(count, dtype=dtype)), (count, value, dtype)
    if mode in ("std", "zscore", "center"):
        shaken = torch.tensor([0.1, 0.1, 0.1, 0.1]) * (1 + torch.tensor([0, 1, -1, 2]) * torch.finfo(torch.float32).eps)
        assert torch.equal(mean_one(squash(normalise(shaken, mode))), torch.ones(4))


@each_mode
@pytest.mark.parametrize("gain", [0.0, 1.0, 4.0])
def test_scores_of_nought_and_gain_nought_weigh_exactly_one(mode: Normalise, gain: float) -> None:
    assert torch.equal(mean_one(squash(normalise(torch.zeros(9), mode), gain)), torch.ones(9))
    if gain == 0:
        assert torch.equal(mean_one(squash(normalise(normal(9), mode), gain)), torch.ones(9, dtype=torch.float64))


@pytest.mark.parametrize("mode", ["rms", "median"])
def test_equal_scores_that_are_not_nought_weigh_one_after_scaling(mode: Normalise) -> None:
    weights = mean_one(squash(normalise(torch.full((33,), 0.1), mode)))
    assert_close(weights, torch.ones(33), rtol=0, atol=3e-7)


FORMULAS = {
    "none": lambda p: p,
    "std": lambda p: p / p.std(correction=0),
    "rms": lambda p: p / p.square().mean().sqrt(),
    "median": lambda p: p / p.abs().median(),
    "zscore": lambda p: (p - p.mean()) / p.std(correction=0),
    "mad": lambda p: (p - p.median()) / (1.4826 * (p - p.median()).abs().median()),
    "center": lambda p: (p - p.median()) / p.std(correction=0),
    "range": lambda p: 10 * p / (p.max() - p.min()),
}


@each_mode
def test_formulas(mode: Normalise) -> None:
    phi = normal(11) + 0.3
    assert_close(normalise(phi, mode), FORMULAS[mode](phi))


@each_mode
@quick
@given(values=scores, scale=st.sampled_from([1e-8, 0.1, 30.0, 1e8]), seed=st.integers(0, 9))
def test_scale_and_order_of_the_scores_do_not_matter(mode: Normalise, values: list[float], scale: float, seed: int) -> None:
    phi = row(values)
    z = normalise(phi, mode)
    assert torch.isfinite(z).all()
    order = torch.randperm(len(phi), generator=torch.Generator().manual_seed(seed))
    assert_close(squash(normalise(phi[order], mode)), squash(z)[order], rtol=1e-6, atol=1e-6)
    if mode != "none" and float(phi.abs().max()) > 1e-200:
        assert_close(squash(normalise(scale * phi, mode)), squash(z), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("mode", KEEP_NOUGHT)
@quick
@given(values=scores, gain=st.floats(0, 8))
def test_first_theorem(mode: Normalise, values: list[float], gain: float) -> None:
    """Invariant 10: modes that only divide keep sum (w - 1) phi <= 0, the first-order change of the query loss, at any gain."""
    phi = row(values)
    assert float(((squash(normalise(phi, mode), gain) - 1) * phi).sum()) <= 1e-9 * float(phi.abs().sum())


def test_modes_that_shift_do_not_keep_the_theorem() -> None:
    """Why they are not the paper's: where every sample helps, a shift takes weight from helpful ones."""
    phi = row([-1.0, -2.0, -3.0, -10.0, -2.5])
    for mode in ("zscore", "mad", "center"):
        assert (squash(normalise(phi, mode)) < 1).any()
    for mode in KEEP_NOUGHT:
        assert (squash(normalise(phi, mode)) > 1).all()


@quick
@given(z=st.lists(st.floats(-40, 40), min_size=1, max_size=30), limit=st.floats(1, 5))
def test_mean_one_scales_by_a_bounded_factor(z: list[float], limit: float) -> None:
    weights = squash(row(z), clamp=40)
    scaled = mean_one(weights, limit)
    factor = scaled / weights
    assert_close(factor, factor[:1].expand_as(factor))
    assert 1 / limit - 1e-12 <= factor[0] <= limit + 1e-12
    if 1 / limit <= weights.mean() <= limit:
        assert float(scaled.mean()) == pytest.approx(1)
    assert scaled.max() <= 2 * limit


def test_one_sample_cannot_take_the_whole_step() -> None:
    scaled = mean_one(row([2.0] + [0.001] * 63))
    assert_close(scaled, row([4.0] + [0.002] * 63))
    assert torch.equal(mean_one(torch.zeros(3)), torch.zeros(3))


def test_what_is_told_of_weights() -> None:
    assert effective_sample_size(torch.ones(7)) == 7
    assert effective_sample_size(row([1, 1, 0, 0])) == 2
    assert effective_sample_size(torch.zeros(3)) == 0
    z = row([-3.0, -1.0, 0.0, 2.0, 5.0])
    assert saturated(z, 1.0, 4.0) == 0.2
    assert saturated(z, 2.0, 4.0) == 0.6
    assert saturated(z, 0.0, 4.0) == 0


def test_misspelt_mode() -> None:
    assert check_normalise("mad", "X") == "mad"
    with pytest.raises(UsageError, match=r"X: normalise must be one of none, std, .*got 'z-score'; did you mean 'zscore'"):
        check_normalise("z-score", "X")
    with pytest.raises(UsageError, match="got 'minmax'"):
        check_normalise("minmax", "X")
