"""PKT by hand, and its limits."""

import math

import pytest
import torch
from feature_makers import FS, FT, pair, rotation
from torch.testing import assert_close

from limbeck.losses.features.pkt import PKT


def test_golden_numbers() -> None:
    # Similarities (1 + cos) / 2: student 01: 1/2, 02: 1, 12: 1/2, so q_0 = (1/3, 2/3), q_1 = (1/2, 1/2), q_2 = (2/3, 1/3);
    # teacher 01: 1, 02: 1/2, 12: 1/2, so p_0 = (2/3, 1/3), p_1 = (2/3, 1/3), p_2 = (1/2, 1/2).
    found = PKT()(pair([[1, 0], [0, 1], [2, 0]], [[3, 0], [1, 0], [0, 1]]))
    wanted = [math.log(2) / 3, (2 * math.log(4 / 3) + math.log(2 / 3)) / 3, math.log(9 / 8) / 2]
    assert found.tolist() == pytest.approx(wanted, abs=1e-6)


def test_rotations_and_every_vectors_size_are_not_seen() -> None:
    sizes = torch.tensor([[2.0], [0.1], [30.0]], dtype=torch.float64)
    assert_close(PKT()(pair(sizes * FS @ rotation(3), FT)), PKT()(pair(FS, FT)))


def test_opposite_vectors_and_lone_samples_stay_finite() -> None:
    student = torch.tensor([[1.0, 0], [-1, 0]], dtype=torch.float64, requires_grad=True)
    value = PKT()(pair(student, FT[:2, :2]))
    (gradient,) = torch.autograd.grad(value.sum(), student)
    assert torch.isfinite(gradient).all()
    assert PKT()(pair(FS[:1], FT[:1])).tolist() == [0.0]
