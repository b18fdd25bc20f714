"""KD against the numbers and the limits of the method sheet."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from limbeck.core.errors import ShapeError, UsageError
from limbeck.core.outputs import Outputs
from limbeck.losses.labels.ce import CE
from limbeck.losses.logits.kd import KD
from support.makers import LABELS, STUDENT, TEACHER, golden_views, normal, random_views, token_views, views

# classics.md gives KL per row to six digits and the T^2 mean; the term is T^2 KL.
GOLDEN = [(1.0, [0.071135, 0.072058, 0.116282], 0.086492), (4.0, [0.008633, 0.005478, 0.012995], 0.144568)]


def value(T: float, student: Tensor, teacher: Tensor) -> Tensor:
    result: Tensor = KD(T=T)(views(student, teacher, None))
    return result


@pytest.mark.parametrize("T, rows, mean", GOLDEN)
def test_golden_numbers(T: float, rows: list[float], mean: float) -> None:
    term = KD(T=T)(golden_views())
    assert_close(term / T**2, torch.tensor(rows, dtype=torch.float64), rtol=0, atol=5.1e-7)
    assert float(term.mean()) == pytest.approx(mean, abs=5.1e-7)


def test_golden_number_of_the_usual_mixture() -> None:
    objective = CE() * 0.1 + KD(T=4) * 0.9
    assert float(objective.per_sample(golden_views()).mean()) == pytest.approx(0.208406, abs=5e-7)


def test_hot_limit_is_half_the_squared_distance_of_centred_logits() -> None:
    centred = [logits - logits.mean(1, keepdim=True) for logits in (STUDENT, TEACHER)]
    wanted = (centred[0] - centred[1]).square().sum(1) / (2 * 4)
    assert_close(value(1e4, STUDENT, TEACHER), wanted, rtol=1e-3, atol=0)


def test_one_hot_teacher_at_temperature_one_is_cross_entropy() -> None:
    certain = torch.full_like(STUDENT, -torch.inf)
    certain[torch.arange(3), LABELS] = 0
    assert_close(value(1, STUDENT, certain), CE()(golden_views()))
    assert_close(value(1, STUDENT, 200 * certain.exp()), CE()(golden_views()))


def test_row_shifts_of_either_side_change_nothing() -> None:
    shift = torch.tensor([[3.0], [-40.0], [700.0]])
    assert_close(value(4, STUDENT + shift, TEACHER), value(4, STUDENT, TEACHER))
    assert_close(value(4, STUDENT, TEACHER - shift), value(4, STUDENT, TEACHER))
    assert_close(value(4, TEACHER + shift, TEACHER), torch.zeros(3, dtype=torch.float64), rtol=0, atol=1e-12)


@pytest.mark.parametrize("T", [0.5, 1.0, 4.0, 20.0])
def test_gradient_of_the_mean_is_T_times_the_difference_of_probabilities(T: float) -> None:
    student = STUDENT.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(value(T, student, TEACHER).mean(), student)
    assert_close(gradient, T * ((STUDENT / T).softmax(1) - (TEACHER / T).softmax(1)) / 3)


def test_classes_that_the_teacher_rules_out() -> None:
    teacher = TEACHER.clone()
    teacher[:, 2] = -torch.inf
    student = STUDENT.clone().requires_grad_()
    ours = value(2, student, teacher)
    p, log_q = (teacher / 2).softmax(1), (STUDENT / 2).log_softmax(1)
    rest = [0, 1, 3]
    assert_close(ours, 4 * (p[:, rest] * (p[:, rest].log() - log_q[:, rest])).sum(1))
    (gradient,) = torch.autograd.grad(ours.sum(), student)
    assert_close(gradient, 2 * ((STUDENT / 2).softmax(1) - p))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_evaluated_in_float32(dtype: torch.dtype) -> None:
    student, teacher = normal(64, 10, seed=3).to(dtype), normal(64, 10, seed=4).to(dtype)
    ours = value(4, student, teacher)
    assert ours.dtype == torch.float32
    assert_close(ours.double(), value(4, student.double(), teacher.double()), rtol=1e-4, atol=1e-6)


def test_tokens_are_averaged_over_those_that_count() -> None:
    both = token_views()
    mask = both.batch.mask
    assert mask is not None
    assert both.teacher is not None
    ours = KD(T=3)(both)
    for row in range(len(mask)):
        tokens = value(3, both.student.logits[row, mask[row]], both.teacher.logits[row, mask[row]])
        assert_close(ours[row], tokens.mean())


def test_masked_tokens_may_hold_anything_and_a_sample_without_tokens_is_0() -> None:
    both = token_views()
    assert both.batch.mask is not None
    mask = both.batch.mask.clone()
    mask[0] = False
    soiled = torch.where(mask.unsqueeze(2), both.student.logits, torch.tensor(float("nan"), dtype=torch.float64))
    ours = KD(T=3)(replace(both, student=Outputs(soiled), batch=replace(both.batch, mask=mask)))
    assert ours[0] == 0
    assert_close(ours[1:], KD(T=3)(both)[1:])


def test_errors_are_one_sentence() -> None:
    both = random_views()
    with pytest.raises(ShapeError, match=r"student logits \[6, 5\] and teacher logits \[6, 4\]"):
        KD()(replace(both, teacher=Outputs(torch.zeros(6, 4))))
    with pytest.raises(UsageError, match="none was given"):
        KD()(replace(both, teacher=None))
    for wrong in (0, -1.0, float("nan"), float("inf"), "4", True):
        with pytest.raises(UsageError, match="KD: T must be"):
            KD(T=wrong)  # type: ignore[arg-type]
