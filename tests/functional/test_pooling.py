"""Features of any kind as one vector per sample."""

import pytest
import torch
from torch.testing import assert_close

from limbeck.core.errors import ShapeError
from limbeck.functional.pooling import maps_only, pooled, same_size
from support.makers import normal


def test_maps_and_tokens_are_averaged_and_vectors_stay() -> None:
    vectors, maps, tokens = normal(3, 4), normal(3, 4, 2, 5), normal(3, 5, 4)
    assert pooled(vectors, None, "X") is vectors
    assert_close(pooled(maps, None, "X"), maps.flatten(2).mean(2))
    mask = torch.tensor([[1, 1, 0, 0, 0], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0]], dtype=torch.bool)
    soiled = tokens.masked_fill(~mask.unsqueeze(2), torch.nan)
    wanted = torch.stack([tokens[0, :2].mean(0), tokens[1].mean(0), torch.zeros(4)])
    assert_close(pooled(soiled, mask, "X"), wanted)
    assert_close(pooled(tokens, None, "X"), tokens.mean(1))
    assert pooled(vectors.half(), None, "X").dtype == torch.float32


def test_other_kinds_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"X: features must be \[B, D\], \[B, C, H, W\] or \[B, L, D\], got \[3\]; tap another"):
        pooled(torch.zeros(3), None, "X")
    with pytest.raises(ShapeError, match=r"X: features must be maps \[B, C, H, W\], got \[3, 2\]"):
        maps_only(torch.zeros(3, 2), "X")


def test_two_maps_meet_at_the_smaller_size_each_way() -> None:
    one, other = same_size(normal(2, 3, 4, 2), normal(2, 5, 2, 4, seed=1))
    assert one.shape == (2, 3, 2, 2)
    assert other.shape == (2, 5, 2, 2)
    assert_close(other, normal(2, 5, 2, 4, seed=1).unflatten(3, (2, 2)).mean(4))
