"""DepthKD against the sheet's numbers; the sheet's logarithms of e + 1/2 are ours less log 2 a mean."""

import math
from dataclasses import replace

import pytest
import torch
from feature_makers import pair
from torch import Tensor
from torch.testing import assert_close

from limbeck.core.errors import ShapeError, UsageError
from limbeck.functional.dense import gradient_gap, normal_gap, value_gap
from limbeck.losses.features.depthkd import DepthKD
from support.makers import normal

LOG2 = math.log(2)
ONE = torch.tensor([[[1, 2, 2], [3, 5, 4], [2, 2, 1]]], dtype=torch.float64)
OTHER = torch.tensor([[[1, 2.5, 2], [2.5, 4, 4], [2, 1.5, 1]]], dtype=torch.float64)
ALL = torch.ones_like(ONE, dtype=torch.bool)


def line(*values: float) -> Tensor:
    return torch.tensor([[values]], dtype=torch.float64)


def test_golden_numbers_of_maps() -> None:
    assert float(value_gap(ONE, OTHER, ALL)) - LOG2 == pytest.approx(-0.340030, abs=5e-7)
    assert float(gradient_gap(ONE, OTHER, ALL)) - 2 * LOG2 == pytest.approx(-0.163472, abs=5e-7)
    assert float(normal_gap(ONE, OTHER, ALL)) == pytest.approx(0.044776, abs=5e-7)
    parts = [float(gap(ONE, OTHER, ALL)) for gap in (value_gap, gradient_gap, normal_gap)]
    both = pair(ONE.unsqueeze(1), OTHER.unsqueeze(1), "depth")
    assert DepthKD(slopes=0.5, normals=2)(both).tolist() == pytest.approx([parts[0] + parts[1] / 2 + 2 * parts[2]])


def test_golden_number_of_truth_and_teacher_together() -> None:
    own, truth, teacher = line(1, 2, 3, 4), line(1.1, 1.8, 3.9, 4), line(1, 1.9, 3.5, 4.1)
    every = torch.ones(1, 1, 4, dtype=torch.bool)
    assert float(value_gap(own, truth, every)) - LOG2 == pytest.approx(-0.306044, abs=5e-7)
    both = pair(own.unsqueeze(1), teacher.unsqueeze(1), "depth")
    both = replace(both, batch=replace(both.batch, meta={"depth": truth}))
    objective = DepthKD(slopes=0, normals=0) * 0.9 + DepthKD("depth", slopes=0, normals=0) * 0.1
    assert float(objective.per_sample(both)) - LOG2 == pytest.approx(-0.416434, abs=5e-7)


def test_constant_offsets_are_not_seen_by_slopes_and_normals() -> None:
    assert_close(gradient_gap(ONE + 10, OTHER, ALL), gradient_gap(ONE + 13, OTHER, ALL))
    assert_close(normal_gap(ONE + 3, OTHER, ALL), normal_gap(ONE, OTHER, ALL))


def test_pixels_without_truth_count_for_nothing_and_none_at_all_is_0() -> None:
    truth = normal(2, 5, 5).abs() + 0.1
    truth[0, 2, 2] = 0
    truth[1] = -1
    student = normal(2, 1, 5, 5, seed=1)
    soiled = student.clone()
    soiled[0, 0, 2, 2] = torch.nan
    found = []
    for maps in (student, soiled):
        maps = maps.clone().requires_grad_()
        both = pair(maps, student, "depth")
        value = DepthKD("depth")(replace(both, batch=replace(both.batch, meta={"depth": truth})))
        (gradient,) = torch.autograd.grad(value.sum(), maps)
        assert gradient[0, 0, 2, 2] == 0
        assert not gradient[1].any()
        found.append(value)
    assert_close(found[0], found[1])
    assert found[0][1] == 0


def test_against_the_truth_no_teacher_is_needed() -> None:
    assert DepthKD("depth").needs == {"student_features"}
    assert DepthKD("depth").teacher_taps == ()
    assert DepthKD().teacher_taps == ("depth",)


def test_errors_are_one_sentence() -> None:
    both = pair(normal(2, 1, 3, 3), normal(2, 1, 4, 4), "depth")
    with pytest.raises(ShapeError, match=r"DepthKD: maps must be \[B, 1, H, W\] and equally large, got \[2, 1, 3, 3\] and"):
        DepthKD()(both)
    with pytest.raises(UsageError, match="DepthKD: samples carry no column 'far', only none"):
        DepthKD("far")(both)
    with pytest.raises(UsageError, match="DepthKD: slopes must be 0 or above"):
        DepthKD(slopes=-1)
