"""Pointwise layers: products of matrices that are 1x1 convolutions."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

from limbeck.align.projectors import Pointwise, mixed, pointwise
from support.makers import normal
from support.twins import assert_twins


@pytest.mark.parametrize("size", [(4, 5), (2, 1), (1, 1)])
@pytest.mark.parametrize("bias", [True, False])
def test_products_are_the_convolution(size: tuple[int, int], bias: bool) -> None:
    """More places than channels, and fewer."""
    leaves = [normal(3, 4, *size).requires_grad_(), normal(6, 4, seed=1).requires_grad_()]
    leaves += [normal(6, seed=2).requires_grad_()] if bias else []
    maps, weight, *shift = leaves
    assert_twins(lambda: mixed(maps, weight, *shift), lambda: F.conv2d(maps, weight[:, :, None, None], *shift), leaves)


def test_it_begins_as_a_convolution_does_and_is_saved_like_one() -> None:
    torch.manual_seed(0)
    own = Pointwise(3, 5)
    torch.manual_seed(0)
    other = nn.Conv2d(3, 5, 1)
    assert all(torch.equal(part, other.state_dict()[name]) for name, part in own.state_dict().items())
    maps = normal(2, 3, 4, 4, dtype=torch.float32)
    assert_close(own(maps), other(maps))
    assert isinstance(pointwise(maps, 5), Pointwise)
    assert own(maps[:0]).shape == (0, 5, 4, 4)


def test_other_layouts_and_precisions() -> None:
    layer, maps = Pointwise(3, 5), normal(2, 3, 4, 4, dtype=torch.float32)
    assert_close(layer(maps.to(memory_format=torch.channels_last)), layer(maps))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(maps).dtype == torch.bfloat16
