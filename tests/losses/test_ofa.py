"""OFA's loss on logits against the numbers of its sheet, both forms."""

import pytest
import torch
from torch.testing import assert_close

from limbeck.core.errors import UsageError
from limbeck.losses.labels.ce import CE
from limbeck.losses.logits.kd import KD
from limbeck.losses.logits.ofa import OFA
from support.makers import LABELS, STUDENT, TEACHER, golden_views, views

GOLDEN = [
    (OFA(1), [1.085538, 1.196806, 1.202661]),
    (OFA(1.5), [1.054162, 0.964951, 1.062208]),
    (OFA(1.5, form="paper"), [2.194606, 2.189400, 2.269090]),
]


@pytest.mark.parametrize("term, wanted", GOLDEN, ids=repr)
def test_golden_numbers(term: OFA, wanted: list[float]) -> None:
    assert_close(term(golden_views()), torch.tensor(wanted, dtype=torch.float64), rtol=0, atol=5.1e-7)


def test_exponent_1_is_soft_cross_entropy_and_in_the_papers_form_one_hard_one_more() -> None:
    log_p = TEACHER.log_softmax(1)
    soft = KD(T=1)(golden_views()) - (log_p.exp() * log_p).sum(1)
    assert_close(OFA(1)(golden_views()), soft)
    assert_close(OFA(1, form="paper")(golden_views()), soft + CE()(golden_views()))


def test_it_rests_where_the_student_equals_the_normalised_weights() -> None:
    p, hard = TEACHER.softmax(1), torch.nn.functional.one_hot(LABELS, 4)
    weights = torch.where(hard == 1, (1 + p) ** 1.4 - 1, p**1.4)
    student = weights.log().requires_grad_()
    (gradient,) = torch.autograd.grad(OFA(1.4)(views(student, TEACHER, LABELS)).sum(), student)
    assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-12)
    rows = torch.arange(3)
    assert (student.softmax(1)[rows, LABELS] > p[rows, LABELS]).all()  # the label is enhanced


def test_shifts_change_nothing() -> None:
    assert_close(OFA()(views(STUDENT + 9, TEACHER - 4, LABELS)), OFA()(golden_views()))


def test_errors() -> None:
    with pytest.raises(UsageError, match=r"OFA: gamma must be 1 or above, got 0\.9"):
        OFA(0.9)
    with pytest.raises(UsageError, match="OFA: form must be one of code, paper"):
        OFA(form="official")  # type: ignore[arg-type]
