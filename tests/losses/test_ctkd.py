"""CTKD: the value and slope of KD for the student, the slope turned round for the temperature."""

import math

import pytest
import torch
from torch.testing import assert_close

from limbeck.core.term import Moment
from limbeck.losses.logits.ctkd import CTKD
from limbeck.losses.logits.kd import KD
from support.makers import STUDENT, TEACHER, golden_views, views

T = 1 + 20 / (1 + math.exp(-1))  # 15.621172


def told(epoch: float) -> CTKD:
    term = CTKD().double()
    term.at(Moment(step=0, steps=1, epoch=epoch))
    return term


@pytest.mark.parametrize("epoch", [0.0, 3.0, 50.0])
def test_value_and_students_gradient_are_those_of_kd_at_its_temperature(epoch: float) -> None:
    student = STUDENT.clone().requires_grad_()
    value = told(epoch)(views(student, TEACHER, None))
    assert_close(value.detach(), KD(T=T)(golden_views()), rtol=1e-12, atol=0)
    (gradient,) = torch.autograd.grad(value.sum(), student)
    assert_close(gradient, T * ((STUDENT / T).softmax(1) - (TEACHER / T).softmax(1)), rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("epoch, strength", [(0.0, 0.0), (5.0, 0.5), (10.0, 1.0), (99.0, 1.0)])
def test_theta_climbs_with_the_strength_of_the_curriculum(epoch: float, strength: float) -> None:
    term = told(epoch)
    (found,) = torch.autograd.grad(term(golden_views()).sum(), term.theta)

    def loss(theta: float) -> float:
        return float(KD(T=1 + 20 / (1 + math.exp(-theta)))(golden_views()).sum())

    slope = (loss(1 + 1e-5) - loss(1 - 1e-5)) / 2e-5
    assert float(found) == pytest.approx(-strength * slope, rel=1e-6, abs=1e-12)


def test_never_told_it_reverses_in_full() -> None:
    whole, last = CTKD().double(), told(10)
    slopes = [torch.autograd.grad(term(golden_views()).sum(), term.theta)[0] for term in (whole, last)]
    assert_close(*slopes)
    assert [name for name, _ in whole.named_parameters()] == ["theta"]


def test_mixed_second_derivative_is_turned_round_too() -> None:
    """d/d theta of the student's gradient, which is what a step of the temperature does to the next student's step."""
    term = told(10)
    student = STUDENT.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(term(views(student, TEACHER, None)).sum(), student, create_graph=True)
    (mixed,) = torch.autograd.grad(gradient[0, 0], term.theta)

    def slope(theta: float) -> float:
        now = 1 + 20 / (1 + math.exp(-theta))
        return float((now * ((STUDENT / now).softmax(1) - (TEACHER / now).softmax(1)))[0, 0])

    assert float(mixed) == pytest.approx(-(slope(1 + 1e-5) - slope(1 - 1e-5)) / 2e-5, rel=1e-6)
