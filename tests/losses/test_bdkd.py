"""BDKD against the numbers, the weights and the limits of its sheet."""

import pytest
import torch
from torch.testing import assert_close

from limbeck.functional.divergences import entropy
from limbeck.losses.labels.ce import CE
from limbeck.losses.logits.bdkd import BDKD
from limbeck.losses.logits.kd import KD
from limbeck.losses.logits.reversekl import ReverseKL
from support.makers import LABELS, STUDENT, TEACHER, golden_views, normal, views


def test_golden_numbers() -> None:
    both = golden_views()
    for found, wanted in (
        (entropy(STUDENT.log_softmax(1)), [1.254576, 1.233221, 1.260001]),
        (entropy(TEACHER.log_softmax(1)), [1.014403, 1.124748, 1.086378]),
        (KD(T=1)(both), [0.071135, 0.072058, 0.116282]),
        (ReverseKL()(both), [0.088892, 0.070935, 0.168788]),
    ):
        assert found.tolist() == pytest.approx(wanted, abs=5.1e-7)
    assert float((CE() + BDKD()).per_sample(both).mean()) == pytest.approx(1.088523, abs=1e-6)
    assert float((CE() + KD(T=1)).per_sample(views(TEACHER, STUDENT, LABELS)).mean()) == pytest.approx(0.808414, abs=1e-6)
    assert float(BDKD()(golden_views()).mean()) == pytest.approx(0.305569, abs=5.1e-7)
    assert float(BDKD()(views(TEACHER, STUDENT, None)).mean()) == pytest.approx(0.305569, abs=5.1e-7)


def test_the_over_confident_student_is_spread_and_the_other_sharpened() -> None:
    student, teacher = 2 * normal(20, 5), 2 * normal(20, 5, seed=1)
    both = views(student, teacher, None)
    over = entropy((student / 3).log_softmax(1)) < entropy((teacher / 3).log_softmax(1))
    assert 0 < int(over.sum()) < 20
    forward, reverse = KD(T=3)(both), ReverseKL(T=3)(both)
    assert_close(BDKD(nu=4, T=3)(both), torch.where(over, 4 * forward + reverse, forward + 4 * reverse))


def test_nu_1_is_symmetric() -> None:
    assert_close(BDKD(nu=1)(golden_views()), KD(T=1)(golden_views()) + ReverseKL()(golden_views()))


@pytest.mark.parametrize("kappa", [0.0, 0.3])
def test_gradient_in_closed_form_with_the_weights_held(kappa: float) -> None:
    student = STUDENT.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(BDKD(nu=2, kappa=kappa)(views(student, TEACHER, None)).sum(), student)
    log_s, log_t = STUDENT.log_softmax(1), TEACHER.log_softmax(1)
    gap = (entropy(log_t) - entropy(log_s)).unsqueeze(1)
    d = 1 + ((gap / kappa).sigmoid() if kappa else 0)  # all three rows are less sure than the teacher
    reverse = ReverseKL()(golden_views()).unsqueeze(1)
    wanted = d * (log_s.exp() - log_t.exp()) + (3 - d) * log_s.exp() * (log_s - log_t - reverse)
    assert_close(gradient, wanted, rtol=1e-10, atol=1e-12)


def test_the_smooth_rule_tends_to_the_hard_one() -> None:
    assert_close(BDKD(kappa=1e-6)(golden_views()), BDKD()(golden_views()))
