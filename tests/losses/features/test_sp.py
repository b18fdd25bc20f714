"""SP by hand, and what it does not see."""

import pytest
import torch
from feature_makers import FS, FT, pair, rotation
from torch.testing import assert_close

from limbeck.core.errors import ShapeError
from limbeck.losses.features.sp import SP
from support.makers import feature_views, normal


def test_golden_numbers() -> None:
    # student Gram rows (1, 0), (0, 1); teacher (1, 1) / sqrt 2 twice: ((1 - 1/sqrt 2)^2 + 1/2) / 2 = 1 - 1/sqrt 2 per anchor
    assert_close(SP()(pair([[1, 0], [0, 1]], [[1, 0], [1, 0]])), torch.full((2,), 1 - 0.5**0.5, dtype=torch.float64))


def test_the_mean_is_the_papers_double_sum() -> None:
    both, total = pair(FS, FT), 0.0
    for i in range(3):
        for j in range(3):
            student, teacher = ((f[i] @ f[j]) / (f @ f[i]).norm() for f in (FS, FT))
            total += float((student - teacher) ** 2)
    assert float(SP()(both).mean()) == pytest.approx(total / 9, abs=1e-12)


def test_rotations_and_sizes_of_either_side_are_not_seen() -> None:
    wanted = SP()(pair(FS, FT))
    assert_close(SP()(pair(3 * FS @ rotation(3), FT)), wanted)
    assert_close(SP()(pair(FS, 0.1 * FT @ rotation(3, seed=1))), wanted)


def test_maps_are_flattened() -> None:
    student, teacher = normal(4, 2, 3, 3), normal(4, 5, 2, 2, seed=1)
    assert_close(SP()(pair(student, teacher)), SP()(pair(student.flatten(1), teacher.flatten(1))))


def test_a_tap_that_stands_for_several_is_refused() -> None:
    with pytest.raises(ShapeError, match=r"SP compares one feature of each side, but tap 'layer\?' gives 3; name one module"):
        SP(student="layer?", teacher="layer?")(feature_views("maps"))
    with pytest.raises(ShapeError, match=r"SP: student tap 'layer\?' gives 3 features and teacher tap 'layer1' 1; name taps"):
        SP(student="layer?", teacher="layer1")(feature_views("maps"))
