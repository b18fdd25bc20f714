"""CC by hand, and its limit."""

import math

import pytest
import torch
from feature_makers import FS, FT, pair, rotation
from torch.testing import assert_close

from limbeck.core.errors import UsageError
from limbeck.losses.features.cc import CC, gaussian_kernel


def test_golden_numbers() -> None:
    # student cosine 0: exp(-0.8); teacher cosine 1: exp(-0.8) (1 + 0.8 + 0.32); the diagonal agrees
    wanted = (1.12 * math.exp(-0.8)) ** 2 / 2
    assert CC()(pair([[1, 0], [0, 5]], [[1, 0], [2, 0]])).tolist() == pytest.approx([wanted, wanted], abs=1e-12)


def test_the_series_tends_to_the_gaussian_kernel() -> None:
    directions = FS / FS.norm(dim=1, keepdim=True)
    wanted = (-0.7 * torch.cdist(directions, directions).square()).exp()
    assert_close(gaussian_kernel(FS, 0.7, 20), wanted, rtol=1e-10, atol=1e-10)


def test_rotations_and_sizes_are_not_seen() -> None:
    assert_close(CC()(pair(4 * FS @ rotation(3), FT)), CC()(pair(FS, FT)))


def test_arguments_are_checked() -> None:
    with pytest.raises(UsageError, match="CC: gamma must be above 0"):
        CC(gamma=0)
    with pytest.raises(UsageError, match="CC: order must be a whole number of at least 1"):
        CC(order=0)
