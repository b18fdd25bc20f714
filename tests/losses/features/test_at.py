"""AT against the sheet's number, and what it does not see."""

import pytest
import torch
from feature_makers import MAPS_S, MAPS_T, pair
from torch.testing import assert_close

from limbeck.core.errors import ShapeError, UsageError
from limbeck.losses.features.at import AT
from support.makers import feature_views, normal


def test_golden_number() -> None:
    assert float(AT()(pair(MAPS_S, MAPS_T, "layer1")).mean()) == pytest.approx(0.036464, abs=5e-7)


def test_sizes_signs_and_the_order_of_channels_are_not_seen() -> None:
    wanted = AT()(pair(MAPS_S, MAPS_T, "layer1"))
    assert_close(AT()(pair(-3 * MAPS_S.flip(1), MAPS_T, "layer1")), wanted)
    assert_close(AT()(pair(MAPS_S, 5 * MAPS_T.repeat(1, 3, 1, 1), "layer1")), wanted)


def test_stages_add_up_and_the_larger_map_is_pooled() -> None:
    both = feature_views("maps")
    parts = [AT(student=f"layer{k}", teacher=f"layer{k}")(both) for k in (1, 2, 3)]
    assert_close(AT()(both), sum(parts))
    large = normal(2, 3, 4, 4)
    small = large.unflatten(3, (2, 2)).unflatten(2, (2, 2)).mean((3, 5))
    assert_close(AT()(pair(large, small, "layer1")), torch.zeros(2, dtype=torch.float64), rtol=0, atol=1e-15)


def test_a_dead_map_is_finite_and_flat() -> None:
    student = torch.zeros(2, 2, 2, 2, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(AT()(pair(student, MAPS_T, "layer1")).sum(), student)
    assert not gradient.any()


def test_errors_are_one_sentence() -> None:
    with pytest.raises(ShapeError, match=r"AT: features must be maps \[B, C, H, W\], got \[9, 5\]; tap a conv"):
        AT()(feature_views("vectors"))
    with pytest.raises(UsageError, match="AT: p must be a whole number of at least 1"):
        AT(p=1.5)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="AT: student must be the name of a module"):
        AT(student="")
    assert repr(AT(p=1, teacher="block?")) == "AT(p=1, teacher='block?')"
