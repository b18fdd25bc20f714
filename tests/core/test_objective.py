"""The algebra of terms."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from limbeck.core.errors import ShapeError, UsageError
from limbeck.core.objective import as_objective
from limbeck.core.outputs import Views
from limbeck.core.term import Term
from limbeck.losses.labels.ce import CE
from limbeck.losses.logits.kd import KD
from support.makers import FromTheMean, golden_views, random_views


class Mean(Term):
    """Breaks the contract."""

    def forward(self, views: Views) -> Tensor:
        return views.student.logits.mean()


class Hungry(Term):
    """Reads features of both sides."""

    needs = frozenset({"student_features", "teacher_features"})
    student_taps = ("layer1", "layer2")
    teacher_taps = ("layer1",)

    def forward(self, views: Views) -> Tensor:
        return views.student.logits.sum(1)


def test_it_reads_like_the_formula() -> None:
    objective = KD(T=4) * 0.7 + CE() * 0.3
    assert repr(objective) == "KD(T=4) * 0.7 + CE() * 0.3"
    assert objective.names == ["KD", "CE"]
    assert objective.needs == {"teacher", "targets"}
    assert repr(CE() + KD()) == "CE() + KD(T=4)"
    assert repr(as_objective(CE(0.1))) == "CE(smoothing=0.1)"
    assert as_objective(objective) is objective


def test_values_are_the_terms_rows_and_their_weighted_sum() -> None:
    both = golden_views()
    objective = KD(T=4) * 0.7 + CE() * 0.3
    rows = torch.stack([KD(T=4)(both), CE()(both)])
    assert_close(objective(both), rows)
    assert_close(objective.per_sample(both), 0.7 * rows[0] + 0.3 * rows[1])


def test_sums_flatten_and_factors_distribute() -> None:
    both = golden_views()
    kd, ce = KD(T=2), CE()
    left = ((kd + ce) * 0.5 + kd * 2) * 3
    assert [coef for coef, _ in left.parts] == [1.5, 1.5, 6]
    assert left.names == ["KD", "CE", "KD#2"]
    assert_close(left.per_sample(both), 7.5 * kd(both) + 1.5 * ce(both))
    assert_close((3 * kd).per_sample(both), (kd * 3).per_sample(both))
    assert_close((kd + (ce + kd)).per_sample(both), ((kd + ce) + kd).per_sample(both))
    assert_close((2 * (kd + ce)).per_sample(both), ((kd + ce) * 2).per_sample(both))


def test_algebra_makes_new_objectives() -> None:
    first = KD() * 0.5
    first + CE()
    first * 3
    assert repr(first) == "KD(T=4) * 0.5"


def test_coefficients_keep_their_digits_in_any_precision() -> None:
    both = random_views()
    objective = KD() * 0.1 + CE() * 0.2
    assert [coef for coef, _ in objective.parts] == [0.1, 0.2]
    half = Views(type(both.student)(both.student.logits.bfloat16()), both.teacher, both.batch)
    assert objective.per_sample(half).dtype in (torch.float32, torch.float64)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), "2", None])
def test_coefficients_are_finite_numbers(wrong: object) -> None:
    with pytest.raises(UsageError, match="KD: its coefficient must be a finite number"):
        KD() * wrong  # type: ignore[operator]


def test_needs_taps_and_coupling_are_gathered() -> None:
    objective = Hungry() + CE() + Hungry()
    assert objective.student_taps == ("layer1", "layer2")
    assert objective.teacher_taps == ("layer1",)
    assert objective.needs == {"student_features", "teacher_features", "targets"}
    assert not objective.coupled
    assert (CE() + FromTheMean()).coupled


def test_a_term_that_reduces_is_named() -> None:
    with pytest.raises(ShapeError, match=r"Mean returned \[\] for 3 samples; .* one value per sample"):
        (CE() + Mean())(golden_views())


def test_terms_are_registered_and_a_shared_one_once() -> None:
    kd = KD()
    objective = kd * 0.5 + kd * 0.5
    assert len({id(module) for module in objective.terms}) == 1
    assert not objective.state_dict()  # coefficients are the recipe's, not a checkpoint's
