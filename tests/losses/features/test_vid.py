"""VID by hand, and where its variance goes."""

import math

import pytest
import torch
from feature_makers import FS, FT, pair
from torch import nn

from limbeck.core.errors import ShapeError, UsageError
from limbeck.losses.features.vid import VID
from support.makers import feature_views, normal, scene


def exact(variance: float = 5.0) -> VID:
    """VID that takes the student's feature for the mean."""
    term = VID(variance)
    term.build(scene(pair(FS, FT, "layer1")))
    term.means = nn.ModuleList([nn.Identity()])
    return term


def test_golden_numbers() -> None:
    # squared gaps of the first row: .25, .25, .01, mean .17; at variance 5: (.17 / 5 + ln 5) / 2
    found = exact()(pair(FS, FT, "layer1"))
    assert float(found[0].detach()) == pytest.approx((0.17 / 5 + math.log(5)) / 2, abs=1e-12)


def test_the_best_variance_is_the_mean_squared_gap() -> None:
    term, both = exact(), pair(FS, FT, "layer1")
    gaps = (FS - FT).square().mean(0)
    term.scales[0].data = (gaps - 1e-5).expm1().log()
    (gradient,) = torch.autograd.grad(term(both).mean(), list(term.scales))
    assert gradient.abs().max() < 1e-12


def test_the_variance_is_trained_and_kept() -> None:
    term = VID()
    term.build(scene(feature_views("maps")))
    assert {f"scales.{k}" for k in range(3)} <= set(term.state_dict())
    assert all(any(part is scale for part in term.trained()) for scale in term.scales)
    assert [len(scale) for scale in term.scales] == [2, 4, 6]


def test_errors_are_one_sentence() -> None:
    with pytest.raises(ShapeError, match=r"VID: features \[4, 2, 3\] and \[4, 3, 3\] differ in kind"):
        VID().build(scene(pair(normal(5, 2, 3), normal(5, 3, 3), "layer1")))
    for wrong in (0, 1e-5, "5"):
        with pytest.raises(UsageError, match="VID: variance must be"):
            VID(variance=wrong)  # type: ignore[arg-type]
