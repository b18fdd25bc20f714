"""Standardised against the numbers and the invariances of its sheet."""

import pytest
import torch
from torch.testing import assert_close

from limbeck.core.errors import ShapeError
from limbeck.core.objective import Objective
from limbeck.core.term import Moment
from limbeck.losses.labels.ce import CE
from limbeck.losses.logits.dist import DIST
from limbeck.losses.logits.dkd import DKD
from limbeck.losses.logits.kd import KD
from limbeck.losses.logits.standardised import Standardised
from support.makers import LABELS, STUDENT, TEACHER, golden_views, normal, views

POPULATION, CODE = Standardised(KD(T=2), unbiased=False), Standardised(KD(T=2))
GOLDEN = [
    (POPULATION, [0.705541, -0.047036, -0.705541, 0.047036], [0.003188, 0.019145, 0.071100], 0.124578, 1.199501),
    (CODE, [0.611016, -0.040734, -0.611016, 0.040734], [0.002378, 0.013906, 0.056815], 0.097465, 0.955480),
]


@pytest.mark.parametrize("term, row, kl, mean, whole", GOLDEN, ids=["population", "code"])
def test_golden_numbers(term: Standardised, row: list[float], kl: list[float], mean: float, whole: float) -> None:
    assert_close(term.standardise(STUDENT)[0] / 2, torch.tensor(row, dtype=torch.float64), rtol=0, atol=6e-7)
    assert_close(term(golden_views()) / 4, torch.tensor(kl, dtype=torch.float64), rtol=0, atol=6e-7)
    assert float(term(golden_views()).mean()) == pytest.approx(mean, abs=6e-7)
    objective = CE() * 0.1 + term * 9
    assert float(objective.per_sample(golden_views()).mean()) == pytest.approx(whole, abs=3e-6)


@pytest.mark.parametrize("inner", [KD(T=2), DKD(), DIST()], ids=repr)
def test_scale_and_shift_of_either_side_change_nothing(inner: KD) -> None:
    term = Standardised(inner)
    assert_close(term(views(0.5 * STUDENT + 7, 3 * TEACHER - 1, LABELS)), term(golden_views()), rtol=1e-5, atol=1e-7)


def test_rows_have_mean_0_and_deviation_1() -> None:
    rows = POPULATION.standardise(5 * normal(6, 9) + 3)
    assert_close(rows.mean(1), torch.zeros(6, dtype=torch.float64), rtol=0, atol=1e-12)
    assert_close(rows.std(1, correction=0), torch.ones(6, dtype=torch.float64), rtol=1e-6, atol=0)
    assert rows.abs().max() <= 8**0.5


def test_the_gradient_is_orthogonal_to_shift_and_scale() -> None:
    student = STUDENT.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(CODE(views(student, TEACHER, None)).sum(), student)
    none = torch.zeros(3, dtype=torch.float64)
    assert_close(gradient.sum(1), none, rtol=0, atol=1e-12)
    assert_close((gradient * (STUDENT - STUDENT.mean(1, keepdim=True))).sum(1), none, rtol=0, atol=1e-6)  # by epsilon


def test_constant_rows_have_finite_derivatives() -> None:
    flat = torch.full((3, 4), 2.5, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(CODE(views(flat, TEACHER, None)).sum(), flat, create_graph=True)
    (second,) = torch.autograd.grad(gradient.square().sum(), flat)
    assert 0 < gradient.abs().max() < 10
    assert torch.isfinite(second).all()


def test_it_is_what_its_inner_term_is() -> None:
    assert not CODE.coupled
    assert CODE.needs == {"teacher"}
    assert Standardised(DIST()).coupled
    assert Standardised(DKD()).needs == {"teacher", "targets"}
    assert Objective([(9.0, Standardised(DKD()))]).needs == {"teacher", "targets"}
    term = Standardised(DKD(warm_up=10))
    full = term(golden_views())
    term.at(Moment(step=0, steps=1, epoch=5.0))
    assert_close(term(golden_views()), full / 2)


def test_two_classes_are_refused() -> None:
    with pytest.raises(ShapeError, match="at least 3 classes"):
        CODE(views(normal(3, 2), normal(3, 2, seed=1), None))
