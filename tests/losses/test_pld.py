"""PLD against the numbers, the gradients and the limits of its sheet."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from limbeck.core.errors import UsageError
from limbeck.losses.labels.ce import CE
from limbeck.losses.logits.pld import PLD
from support.makers import LABELS, STUDENT, TEACHER, golden_views, labels, normal, views

GOLDEN = [
    (PLD(), [0.718689, 0.633890, 0.837977]),
    (PLD(T=4), [0.584726, 0.518744, 0.778575]),
    (PLD(weights="uniform"), [0.508415, 0.454262, 0.731320]),
]


@pytest.mark.parametrize("term, wanted", GOLDEN, ids=repr)
def test_golden_numbers(term: PLD, wanted: list[float]) -> None:
    assert_close(term(golden_views()), torch.tensor(wanted, dtype=torch.float64), rtol=0, atol=5.1e-7)


def test_golden_gradient() -> None:
    student = STUDENT.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(PLD()(views(student, TEACHER, LABELS)).sum(), student)
    wanted = [[-0.328479, 0.167306, 0.150612, 0.010562], [0.170756, -0.194417, -0.116779, 0.140440]]
    assert_close(gradient[:2], torch.tensor(wanted, dtype=torch.float64), rtol=0, atol=5.1e-7)
    assert_close(gradient.sum(1), torch.zeros(3, dtype=torch.float64), rtol=0, atol=1e-12)


def test_the_slow_way() -> None:
    """The definition: classes in turn, each against those not yet placed."""
    student, teacher, y = normal(5, 6), normal(5, 6, seed=1), labels(5, classes=6)
    p = teacher.softmax(1)
    for row in range(5):
        order = [int(y[row]), *(c for c in teacher[row].argsort(descending=True).tolist() if c != int(y[row]))]
        s = student[row, order]
        loss = sum(p[row, c] * (s[k:].logsumexp(0) - s[k]) for k, c in enumerate(order))
        assert_close(PLD()(views(student, teacher, y))[row], loss)


def test_a_certain_teacher_and_two_classes_give_cross_entropy() -> None:
    sure = 200 * torch.nn.functional.one_hot(LABELS, 4).double()
    assert_close(PLD()(views(STUDENT, sure, LABELS)), CE()(golden_views()))
    student, teacher, y = normal(5, 2), normal(5, 2, seed=1), labels(5, classes=2)
    share = teacher.softmax(1).gather(1, y.unsqueeze(1)).squeeze(1)
    assert_close(PLD()(views(student, teacher, y)), share * CE()(views(student, None, y)))


def test_shifts_and_the_order_of_classes_change_nothing() -> None:
    assert_close(PLD()(views(STUDENT + 7, TEACHER - 3, LABELS)), PLD()(golden_views()))
    order = torch.tensor([2, 0, 3, 1])
    assert_close(PLD()(views(STUDENT[:, order], TEACHER[:, order], order.argsort()[LABELS])), PLD()(golden_views()))


def test_convex_in_the_students_logits() -> None:
    def value(logits: Tensor) -> Tensor:
        found: Tensor = PLD()(views(logits, TEACHER, LABELS))
        return found

    for seed in range(5):
        a, b = 3 * normal(3, 4, seed=seed), 3 * normal(3, 4, seed=seed + 50)
        assert (value((a + b) / 2) <= (value(a) + value(b)) / 2 + 1e-12).all()


def test_errors() -> None:
    with pytest.raises(UsageError, match="PLD: weights must be one of teacher, uniform, got 'position'"):
        PLD(weights="position")  # type: ignore[arg-type]
