"""AEKT against the closed forms, limits and invariants of its sheet."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from limbeck.core.errors import UsageError
from limbeck.core.term import Moment
from limbeck.losses.labels.ce import CE
from limbeck.losses.logits.aekt import AEKT, Mode
from limbeck.losses.logits.dkd import DKD
from support.makers import LABELS, STUDENT, TEACHER, golden_views, labels, normal, random_views, views

HARD = torch.nn.functional.one_hot(LABELS, 4).double()


def slope(term: AEKT, student: Tensor, teacher: Tensor = TEACHER, targets: Tensor = LABELS) -> Tensor:
    leaf = student.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(term(views(leaf, teacher, targets)).sum(), leaf)
    return gradient


def of_target(logits: Tensor, T: float) -> Tensor:
    return ((logits / T).softmax(1) * HARD).sum(1, keepdim=True)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("mode", ["ratio_tckd", "ratio_ce"])
@pytest.mark.parametrize("T", [1.0, 4.0])
def test_gradients_in_closed_form(gamma: float, mode: Mode, T: float) -> None:
    """aekt.md, 3, with p the student's and q the teacher's: the gain times that of TCKD, or that of -log p_y."""
    p, p_y, q_y = (STUDENT / T).softmax(1), of_target(STUDENT, T), of_target(TEACHER, T)
    gain = (q_y / p_y).clamp(max=1.3) ** gamma
    rest = p * (1 - HARD) / (1 - p_y)
    wanted = (p_y - q_y) * (HARD - rest) if mode == "ratio_tckd" else p - HARD
    term = AEKT(1, 0, gamma=gamma, r_max=1.3, T=T, mode=mode)
    assert_close(slope(term, STUDENT), T * gain * wanted, rtol=1e-10, atol=1e-12)


def test_without_gain_it_is_dkd() -> None:
    for alpha, beta in [(1.0, 8.0), (0.3, 2.0)]:
        assert_close(AEKT(alpha, beta, gamma=0)(golden_views()), DKD(alpha, beta)(golden_views()), rtol=1e-14, atol=0)


def test_at_the_teacher_all_rests_but_the_cross_entropy_mode() -> None:
    none = torch.zeros_like(TEACHER)
    assert_close(slope(AEKT(), TEACHER), none, rtol=0, atol=1e-12)
    leaf = TEACHER.clone().requires_grad_()
    (of_ce,) = torch.autograd.grad(CE()(views(leaf, None, LABELS)).sum(), leaf)
    assert_close(slope(AEKT(T=1, mode="ratio_ce"), TEACHER), of_ce)


def test_potential_whose_gradient_it_is() -> None:
    """aekt.md, 3: q_y (1 - q_y) b + q_y^2 exp(-b), b the student's log-odds, has the gradient of gamma = 1 without a bound."""
    student = STUDENT.clone().requires_grad_()
    log_p, q_y = student.log_softmax(1), of_target(TEACHER, 1).squeeze(1)
    rest = torch.stack([log_p[i, [c for c in range(4) if c != y]].logsumexp(0) for i, y in enumerate(LABELS.tolist())])
    b = (log_p * HARD).sum(1) - rest
    (wanted,) = torch.autograd.grad((q_y * (1 - q_y) * b + q_y**2 * (-b).exp()).sum(), student)
    assert_close(slope(AEKT(1, 0, r_max=1e9, T=1), STUDENT), wanted, rtol=1e-10, atol=1e-12)


def test_the_gain_falls_with_the_students_confidence_and_rises_with_the_teachers() -> None:
    sure = torch.stack([torch.linspace(-9, 9, 19, dtype=torch.float64), torch.zeros(19, dtype=torch.float64)], 1).log_softmax(1)
    half, y = torch.full((19, 2), 0.5, dtype=torch.float64).log(), torch.zeros(19, dtype=torch.int64)
    term = AEKT(gamma=2, r_max=3)
    by_student, by_teacher = term.gain(half, sure, y), term.gain(sure, half, y)
    assert (by_student.diff() <= 0).all()
    assert (by_teacher.diff() >= 0).all()
    assert by_student.max() == 9  # r_max^gamma
    assert not AEKT().gain(half, sure.clone().requires_grad_(), y).requires_grad


def test_shifts_change_nothing_and_gradients_sum_to_0() -> None:
    both = random_views()
    assert both.teacher is not None
    shifted = views(both.student.logits + 7, both.teacher.logits - 3, both.batch.targets)
    assert_close(AEKT()(shifted), AEKT()(both))
    assert_close(slope(AEKT(), STUDENT).sum(1), torch.zeros(3, dtype=torch.float64), rtol=0, atol=1e-12)


def test_two_classes() -> None:
    gradient = slope(AEKT(0, 1), normal(5, 2), normal(5, 2, seed=1), labels(5, classes=2))
    assert_close(gradient, torch.zeros(5, 2, dtype=torch.float64))


def test_warm_up() -> None:
    term, both = AEKT(warm_up=10), random_views()
    full = term(both)
    term.at(Moment(step=0, steps=1, epoch=2.5))
    assert_close(term(both), full / 4)


def test_errors() -> None:
    with pytest.raises(UsageError, match="AEKT: mode must be one of ratio_tckd, ratio_ce, got 'ce'"):
        AEKT(mode="ce")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="AEKT: r_max must be above 0"):
        AEKT(r_max=0)
