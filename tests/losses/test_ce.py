"""CE against the numbers of the method sheet."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from limbeck.core.errors import ShapeError, UsageError
from limbeck.core.outputs import Outputs
from limbeck.losses.labels.ce import CE
from support.makers import golden_views, normal, random_views, token_views


def test_golden_numbers() -> None:
    ours = CE()(golden_views())
    assert_close(ours, torch.tensor([0.774287, 0.815176, 0.759401], dtype=torch.float64), rtol=0, atol=5.1e-7)
    assert float(ours.mean()) == pytest.approx(0.782955, abs=5e-7)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_smoothing_is_that_of_torch(smoothing: float) -> None:
    both = random_views()
    assert both.batch.targets is not None
    theirs = F.cross_entropy(both.student.logits, both.batch.targets, reduction="none", label_smoothing=smoothing)
    assert_close(CE(smoothing)(both), theirs)


def test_smoothing_lifts_the_floor_to_the_entropy_of_the_target() -> None:
    target = torch.tensor([0.9 + 0.1 / 4, 0.025, 0.025, 0.025], dtype=torch.float64)
    both = replace(golden_views(), student=Outputs(target.log().expand(3, 4)))
    both = replace(both, batch=replace(both.batch, targets=torch.zeros(3, dtype=torch.int64)))
    assert_close(CE(0.1)(both), -(target * target.log()).sum().expand(3))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_evaluated_in_float32(dtype: torch.dtype) -> None:
    both = random_views(rows=64, classes=10)
    half = both.student.logits.to(dtype)
    ours = CE()(replace(both, student=Outputs(half)))
    assert ours.dtype == torch.float32
    assert_close(ours.double(), CE()(replace(both, student=Outputs(half.double()))), rtol=1e-5, atol=1e-6)


def test_tokens_are_averaged_over_those_that_count() -> None:
    both = token_views()
    mask, targets = both.batch.mask, both.batch.targets
    assert mask is not None
    assert targets is not None
    for smoothing in (0.0, 0.2):
        ours = CE(smoothing)(both)
        for row in range(len(mask)):
            chosen = mask[row]
            tokens = F.cross_entropy(both.student.logits[row, chosen], targets[row, chosen], label_smoothing=smoothing)
            assert_close(ours[row], tokens)
    none = replace(both, batch=replace(both.batch, mask=torch.zeros_like(mask)))
    assert torch.equal(CE()(none), torch.zeros(6, dtype=torch.float64))


def test_labels_of_masked_tokens_may_be_anything() -> None:
    both = token_views()
    mask, targets = both.batch.mask, both.batch.targets
    assert mask is not None
    assert targets is not None
    padded = replace(both, batch=replace(both.batch, targets=torch.where(mask, targets, -100)))
    assert_close(CE()(padded), CE()(both))


def test_gradient_is_the_difference_to_the_label() -> None:
    student = normal(6, 5).requires_grad_()
    both = replace(random_views(), student=Outputs(student))
    assert both.batch.targets is not None
    (gradient,) = torch.autograd.grad(CE()(both).sum(), student)
    assert_close(gradient, student.detach().softmax(1) - F.one_hot(both.batch.targets, 5))


def test_errors_are_one_sentence() -> None:
    both = random_views()
    with pytest.raises(UsageError, match="needs labels"):
        CE()(replace(both, batch=replace(both.batch, targets=None)))
    with pytest.raises(ShapeError, match=r"logits \[6, 5\] need one label per row, got labels \[6, 2\]"):
        CE()(replace(both, batch=replace(both.batch, targets=torch.zeros(6, 2, dtype=torch.int64))))
    for wrong in (-0.1, 1.1, float("nan")):
        with pytest.raises(UsageError, match="smoothing"):
            CE(wrong)
