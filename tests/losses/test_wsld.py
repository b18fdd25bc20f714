"""WSLD: KD times a factor that is worked out apart."""

import torch
from torch.testing import assert_close

from limbeck.losses.labels.ce import CE
from limbeck.losses.logits.kd import KD
from limbeck.losses.logits.wsld import WSLD
from support.makers import LABELS, STUDENT, TEACHER, golden_views, views


def test_golden_factor() -> None:
    # the sheet's CE of the student 0.774287 0.815176 0.759401; of the teacher by hand: log sum exp(t) - t_y
    # row 0: log(7.389056 + 1.648721 + 0.367879 + 2.718282) - 2 = log 12.123938 - 2 = 0.495182, ratio 1.563641, factor 0.790629
    factor = WSLD(T=4)(golden_views())[0] / KD(T=4)(golden_views())[0]
    assert_close(factor, torch.tensor(0.790629, dtype=torch.float64), rtol=0, atol=2e-6)


def test_the_gradient_is_the_factor_times_that_of_kd() -> None:
    factor = 1 - torch.exp(-CE()(golden_views()) / CE()(views(TEACHER, None, LABELS)))
    student = STUDENT.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(WSLD(T=3)(views(student, TEACHER, LABELS)).sum(), student)
    assert_close(gradient, factor.unsqueeze(1) * 3 * ((STUDENT / 3).softmax(1) - (TEACHER / 3).softmax(1)), rtol=1e-6, atol=0)


def test_what_only_the_student_knows_counts_nothing_and_what_only_the_teacher_knows_counts_whole() -> None:
    right, wrong = torch.tensor([[40.0, 0, 0]]).double(), torch.tensor([[0, 40.0, 0]]).double()
    y = torch.tensor([0])
    assert WSLD()(views(right, wrong, y)) < 1e-12
    assert_close(WSLD()(views(wrong, right, y)), KD(T=2)(views(wrong, right, None)))
