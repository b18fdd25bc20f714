"""VID by hand, and where its variance goes."""

import math

import pytest
import torch
from feature_makers import FS, FT, pair
from torch import nn

from limbeck.core.errors import ShapeError, UsageError
from limbeck.losses.features.vid import VID
from support.makers import feature_views, normal, scene
from support.twins import assert_twins


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


@pytest.mark.parametrize("shape", [(5, 3), (5, 3, 4, 4)])
def test_the_likelihood_element_by_element(shape: tuple[int, ...]) -> None:
    """The slow twin: a variance for every element."""
    student, teacher = normal(*shape).requires_grad_(), normal(*shape, seed=1)
    term = VID()
    term.build(scene(pair(student.detach(), teacher, "layer1")))
    term.double().means = nn.ModuleList([nn.Identity()])
    scale = term.scales[0]
    scale.data = normal(3, seed=2)

    def slow() -> torch.Tensor:
        variance = (torch.nn.functional.softplus(scale) + 1e-5).reshape(-1, *[1] * (len(shape) - 2))
        return (((student - teacher).square() / variance + variance.log()) / 2).flatten(1).mean(1)

    assert_twins(lambda: term(pair(student, teacher, "layer1")), slow, [student, scale])
