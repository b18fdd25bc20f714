"""DKD against the numbers, the identity and the gradients of the method sheets."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from limbeck.core.term import Moment
from limbeck.functional.divergences import forward_kl, log_softmax, softened
from limbeck.functional.target_split import others, others_kl, own, target_kl
from limbeck.losses.logits.dkd import DKD
from limbeck.losses.logits.kd import KD
from support.makers import LABELS, STUDENT, TEACHER, golden_views, labels, normal, random_views, views


def parts(T: float) -> tuple[Tensor, Tensor]:
    tckd, nckd = DKD(alpha=1, beta=0, T=T)(golden_views()), DKD(alpha=0, beta=1, T=T)(golden_views())
    return tckd, nckd


def test_golden_numbers() -> None:
    tckd, nckd = parts(4)
    assert_close(tckd, torch.tensor([0.063855, 0.002650, 0.030874], dtype=torch.float64), rtol=0, atol=5.1e-7)
    assert_close(nckd, torch.tensor([0.112587, 0.119649, 0.263478], dtype=torch.float64), rtol=0, atol=5.1e-7)
    assert float(DKD(alpha=1, beta=8, T=4)(golden_views()).mean()) == pytest.approx(1.354363, abs=5.1e-7)


@pytest.mark.parametrize("T", [1.0, 4.0])
def test_parts_add_up_to_kd(T: float) -> None:
    tckd, nckd = parts(T)
    rest = 1 - (TEACHER / T).softmax(1)[torch.arange(3), LABELS]
    assert_close(tckd + rest * nckd, KD(T=T)(golden_views()), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("T", [1.0, 3.0])
def test_gradients_in_closed_form(T: float) -> None:
    """aekt.md, 2: TCKD has p_y - q_y at the label and -(p_y - q_y) p~ elsewhere; NCKD has 0 and p~ - q~ (p the student)."""
    student = STUDENT.clone().requires_grad_()
    p, q = ((logits / T).softmax(1) for logits in (STUDENT, TEACHER))
    hard = torch.nn.functional.one_hot(LABELS, 4).double()
    p_y, q_y = (p * hard).sum(1, keepdim=True), (q * hard).sum(1, keepdim=True)
    p_rest, q_rest = p * (1 - hard) / (1 - p_y), q * (1 - hard) / (1 - q_y)
    wanted = {(1, 0): (p_y - q_y) * (hard - p_rest), (0, 1): p_rest - q_rest}
    for (alpha, beta), slope in wanted.items():
        value = DKD(alpha, beta, T=T)(views(student, TEACHER, LABELS))
        (gradient,) = torch.autograd.grad(value.sum(), student)
        assert_close(gradient, T * slope, rtol=1e-10, atol=1e-12)


def test_others_do_not_see_the_targets_logit() -> None:
    shifted = STUDENT + 5 * torch.nn.functional.one_hot(LABELS, 4)
    term = DKD(alpha=0, beta=1)
    assert_close(term(views(shifted, TEACHER, LABELS)), term(golden_views()))


def test_two_classes_have_no_others() -> None:
    student = normal(5, 2).requires_grad_()
    value = DKD(alpha=0, beta=1)(views(student, normal(5, 2, seed=1), labels(5, classes=2)))
    (gradient,) = torch.autograd.grad(value.sum(), student)
    assert_close(value, torch.zeros(5, dtype=torch.float64))
    assert_close(gradient, torch.zeros(5, 2, dtype=torch.float64))


def test_warm_up_is_linear_in_epochs_and_over_where_no_moment_is_told() -> None:
    term, both = DKD(warm_up=20), random_views()
    full = term(both)
    for epoch, strength in [(0.0, 0.0), (5.0, 0.25), (20.0, 1.0), (70.0, 1.0)]:
        term.at(Moment(step=0, steps=1, epoch=epoch))
        assert_close(term(both), strength * full)
    term = DKD(warm_up=0)
    term.at(Moment(step=0, steps=1, epoch=0.0))
    assert_close(term(both), full)


def test_the_split_is_the_distribution_in_two_parts() -> None:
    log_p = log_softmax(normal(2, 3, 5))
    y = labels(2, 3, classes=5)
    assert_close(own(log_p, y).exp() + others(log_p, y).exp().sum(-1), torch.ones(2, 3, dtype=torch.float64))
    assert others(torch.arange(4.0).expand(3, 4), torch.tensor([0, 2, 3])).tolist() == [[1, 2, 3], [0, 1, 3], [0, 1, 2]]
    log_q = log_softmax(normal(2, 3, 5, seed=1))
    rest = 1 - own(log_p, y).exp()
    assert_close(target_kl(log_p, log_q, y) + rest * others_kl(log_p, log_q, y), forward_kl(log_p, log_q))


def test_hot_limit_of_the_whole_is_the_difference_of_centred_logits() -> None:
    """aekt.md, 8.11: with TCKD + (1 - q_y) NCKD the gradient tends to (s - t) / C for centred logits."""
    student, teacher = (logits - logits.mean(1, keepdim=True) for logits in (STUDENT, TEACHER))
    leaf = student.clone().requires_grad_()

    def whole(log_p: Tensor, log_q: Tensor) -> Tensor:
        rest = 1 - own(log_p, LABELS).exp()
        return target_kl(log_p, log_q, LABELS) + rest * others_kl(log_p, log_q, LABELS)

    (gradient,) = torch.autograd.grad(softened(whole, leaf, teacher, 1e4).sum(), leaf)
    assert_close(gradient, (student - teacher) / 4, rtol=1e-3, atol=1e-5)
