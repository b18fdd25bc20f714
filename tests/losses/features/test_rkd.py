"""RKD against the sheet's numbers, and what it does not see."""

import pytest
import torch
from feature_makers import FS, FT, pair, rotation
from torch.testing import assert_close

from limbeck.core.errors import UsageError
from limbeck.losses.features.rkd import RKD
from support.makers import normal
from support.twins import assert_twins


def test_golden_numbers() -> None:
    both = pair(FS, FT)
    assert float(RKD(1, 0)(both).mean()) == pytest.approx(0.002750, abs=5e-7)
    assert float(RKD(0, 1)(both).mean()) == pytest.approx(0.001616, abs=5e-7)
    assert float(RKD()(both).mean()) == pytest.approx(0.149565, abs=5e-6)


def test_shifts_rotations_and_sizes_of_either_side_are_not_seen() -> None:
    wanted = RKD()(pair(FS, FT))
    assert_close(RKD()(pair(7 * FS @ rotation(3) + 2, FT)), wanted)
    assert_close(RKD()(pair(FS, 0.2 * FT @ rotation(3, seed=1) - 5)), wanted)
    wide = torch.cat([FT, torch.zeros(3, 4, dtype=torch.float64)], 1)
    assert_close(RKD()(pair(FS, wide)), wanted)


def test_an_anchors_share_is_its_row_of_pairs_and_its_triplets() -> None:
    """Four points, all in turn, in plain loops."""
    student = torch.tensor([[0, 0], [3, 4], [0, 2], [1, 1]], dtype=torch.float64)
    teacher = torch.tensor([[1, 0], [0, 1], [2, 2], [0, 3]], dtype=torch.float64)

    def smooth(gap: float) -> float:
        return gap**2 / 2 if abs(gap) < 1 else abs(gap) - 0.5

    def distance(x: torch.Tensor, i: int, j: int) -> float:
        mean = sum(float((x[a] - x[b]).norm()) for a in range(4) for b in range(4)) / 12
        return float((x[i] - x[j]).norm()) / mean

    def angle(x: torch.Tensor, i: int, j: int, k: int) -> float:
        one, other = x[j] - x[i], x[k] - x[i]
        return 0.0 if i in (j, k) else float(one @ other / (one.norm() * other.norm()))

    for i, found in enumerate(RKD()(pair(student, teacher)).tolist()):
        pairs = [smooth(distance(student, i, j) - distance(teacher, i, j)) for j in range(4)]
        triplets = [smooth(angle(student, i, j, k) - angle(teacher, i, j, k)) for j in range(4) for k in range(4)]
        assert found == pytest.approx(25 * sum(pairs) / 4 + 50 * sum(triplets) / 16, abs=1e-10)


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_a_student_that_gives_all_samples_one_feature_has_a_finite_gradient(rows: int) -> None:
    student = torch.ones(rows, 3, dtype=torch.float64, requires_grad=True)
    value = RKD()(pair(student, FT[:rows]))
    (gradient,) = torch.autograd.grad(value.sum(), student, create_graph=True)
    (second,) = torch.autograd.grad(gradient.sum(), student, allow_unused=True)
    assert torch.isfinite(value).all()
    assert torch.isfinite(gradient).all()
    assert second is None or torch.isfinite(second).all()


def test_weights_below_0_are_refused() -> None:
    with pytest.raises(UsageError, match="RKD: angle must be 0 or above"):
        RKD(angle=-1)


def test_relations_of_unit_vectors_and_lengths_taken_apart() -> None:
    """The slow twin: lengths and directions of the differences, each made of them anew."""
    student, teacher = normal(6, 4).requires_grad_(), normal(6, 5, seed=1)

    def slow() -> torch.Tensor:
        found = []
        for part in (student, teacher):
            gaps = part.unsqueeze(0) - part.unsqueeze(1)
            squared = gaps.square().sum(2)
            apart = squared > 0
            lengths = torch.where(apart, squared, 1).sqrt() * apart
            directions = gaps * apart.unsqueeze(2) / torch.where(apart, lengths, 1).unsqueeze(2)
            found.append((lengths * 30 / lengths.sum(), directions @ directions.transpose(1, 2)))
        smooth = [torch.nn.functional.smooth_l1_loss(one, two, reduction="none") for one, two in zip(*found, strict=True)]
        return 25 * smooth[0].mean(1) + 50 * smooth[1].mean((1, 2))

    assert_twins(lambda: RKD()(pair(student, teacher)), slow, [student])
