"""Figures of depth maps against the numbers of depth-kd.md."""

import pytest
import torch

from limbeck.core.errors import ShapeError, UsageError
from limbeck.evaluation.depth import depth_figures

MADE = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]], dtype=torch.float64)
TRUTH = torch.tensor([[[1.1, 1.8], [3.9, 4.0]]], dtype=torch.float64)


def test_golden_numbers() -> None:
    found = depth_figures(MADE, TRUTH)
    assert (found.rmse, found.relative, found.log10) == pytest.approx((0.463681, 0.108197, 0.050273), abs=5e-7)
    assert found.deltas[0] == 0.75


def test_pixels_without_a_truth_do_not_count_and_scale_moves_only_the_error() -> None:
    hole = depth_figures(torch.cat([MADE, 9 * MADE[:, :1]], 1), torch.cat([TRUTH, torch.zeros(1, 1, 2)], 1))
    assert hole == depth_figures(MADE, TRUTH)
    one, other = depth_figures(MADE, TRUTH), depth_figures(3 * MADE, 3 * TRUTH)
    assert other.rmse == pytest.approx(3 * one.rmse)
    assert (other.relative, other.log10, *other.deltas) == pytest.approx((one.relative, one.log10, *one.deltas))
    assert list(one.deltas) == sorted(one.deltas)


def test_what_has_no_figures_is_refused() -> None:
    with pytest.raises(ShapeError, match=r"both alike, got \[1, 2, 2\] and \[1, 1, 2\]"):
        depth_figures(MADE, TRUTH[:, :1])
    with pytest.raises(UsageError, match="each map needs a pixel whose truth is above 0"):
        depth_figures(MADE, 0 * TRUTH)
