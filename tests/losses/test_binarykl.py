"""BinaryKL and BinaryKLNorm against the numbers and limits of the dual-head sheet."""

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, kl_divergence
from torch.testing import assert_close

from limbeck.losses.logits.binarykl import BinaryKL
from limbeck.losses.logits.binaryklnorm import BinaryKLNorm
from support.makers import STUDENT, TEACHER, golden_views, normal, views


@pytest.mark.parametrize("term, wanted", [(BinaryKL(), 0.215624), (BinaryKLNorm(), 0.229873), (BinaryKLNorm(1000), 0.231667)])
def test_golden_numbers(term: BinaryKL | BinaryKLNorm, wanted: float) -> None:
    assert float(term(golden_views()).mean()) == pytest.approx(wanted, abs=5.1e-7)


def test_they_are_sums_of_bernoulli_divergences() -> None:
    student, teacher = 4 * normal(5, 6), 4 * normal(5, 6, seed=1)
    s, t, gap = Bernoulli(logits=student / 3), Bernoulli(logits=teacher / 3), Bernoulli(logits=(student - teacher) / 3)
    half = Bernoulli(probs=torch.full_like(student, 0.5))
    both = views(student, teacher, None)
    assert_close(BinaryKL(3)(both), 9 * kl_divergence(t, s).sum(1))
    assert_close(BinaryKLNorm(3)(both), 9 * kl_divergence(half, gap).sum(1))
    assert_close(BinaryKLNorm(3)(both), 9 * ((student - teacher) / 6).cosh().log().sum(1))


def slope(student: Tensor, teacher: Tensor, T: float) -> Tensor:
    leaf = student.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(BinaryKLNorm(T)(views(leaf, teacher, None)).mean(), leaf)
    return gradient


def test_gradient_of_the_normalised_one() -> None:
    wanted = torch.tensor([-0.081640, -0.024953, 0.041451, -0.057745], dtype=torch.float64)
    # the sheet's row at T = 2 and B = 3: T / (2 B) tanh((s - t) / (2 T)), first entry tanh(-1 / 4) / 3
    assert_close(slope(STUDENT, TEACHER, 2)[0], wanted, rtol=0, atol=5.1e-7)
    far = slope(1e3 * STUDENT, -1e3 * TEACHER, 2)
    assert_close(far, (STUDENT + TEACHER).sign() / 3)  # bounded, and not lost where the difference is large


def test_limits_in_T() -> None:
    gap = STUDENT - TEACHER
    assert_close(BinaryKLNorm(1e4)(golden_views()), gap.square().sum(1) / 8, rtol=1e-6, atol=0)
    assert_close(BinaryKLNorm(1e-4)(golden_views()) / 1e-4, gap.abs().sum(1) / 2, rtol=1e-3, atol=0)


def test_constants_on_one_side_are_seen_on_both_they_are_not_and_the_sides_may_be_swapped() -> None:
    norm = BinaryKLNorm()
    assert_close(norm(views(STUDENT + 3, TEACHER + 3, None)), norm(golden_views()))
    assert_close(norm(views(TEACHER, STUDENT, None)), norm(golden_views()))
    for term in (BinaryKL(), norm):
        assert (term(views(TEACHER + 3, TEACHER, None)) > 1).all()
