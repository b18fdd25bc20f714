"""TRRD: the sheet's numbers, GRPO at one end, and which tokens are let move."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from limbeck.core.errors import ShapeError, UsageError
from limbeck.losses.drawn import ADVANTAGE, DRAWN, REFERENCE
from limbeck.losses.logits.trrd import TRRD
from limbeck.testing.makers import views

STUDENT, OLD, TEACHER = [-0.9, -1.6, -0.4], [-1.0, -1.5, -0.5], [-0.3, -2.5, -0.5]
"""Log-probabilities of three drawn tokens (rlad-trrd)."""


def logits(log_probs: list[float]) -> Tensor:
    """Two tokens, the first of which has these log-probabilities: [1, L, 2]."""
    own = torch.tensor(log_probs, dtype=torch.float64)
    return torch.stack([own, (-own.expm1()).log()], -1)[None]


def value(
    term: TRRD,
    advantage: float,
    student: Tensor,
    teacher: list[float] = TEACHER,
    old: list[float] = OLD,
    **columns: list[float],
) -> Tensor:
    meta = {DRAWN: torch.tensor([old], dtype=torch.float64), ADVANTAGE: torch.tensor([advantage], dtype=torch.float64)}
    meta |= {name: torch.tensor([part], dtype=torch.float64) for name, part in columns.items()}
    found: Tensor = term(views(student, logits(teacher), torch.zeros(1, 3, dtype=torch.int64), None, meta))
    return found[0]


@pytest.mark.parametrize(
    ("alpha", "good", "bad"), [(1.0, -1.038393, 1.038393), (0.5, -1.027991, 1.132332), (0.0, -0.951328, 1.454925)]
)
def test_golden_numbers(alpha: float, good: float, bad: float) -> None:
    """rlad-trrd: losses of completions with advantage 1 and -1."""
    assert float(value(TRRD(alpha), 1.0, logits(STUDENT))) == pytest.approx(good, abs=5.1e-7)
    assert float(value(TRRD(alpha), -1.0, logits(STUDENT))) == pytest.approx(bad, abs=5.1e-7)


def test_it_is_grpo_where_the_teacher_has_no_share_or_nothing_to_add() -> None:
    wanted = value(TRRD(1.0), 0.7, logits(STUDENT))
    assert_close(value(TRRD(1.0), 0.7, logits(STUDENT), teacher=[-3.0, -0.1, -9.0]), wanted)
    for alpha in (0.0, 0.3):
        assert_close(value(TRRD(alpha), 0.7, logits(STUDENT), teacher=OLD), wanted)


def slope_of(term: TRRD, advantage: float, **changes: list[float]) -> list[bool]:
    """Which tokens move."""
    student = logits(STUDENT).requires_grad_()
    (slope,) = torch.autograd.grad(value(term, advantage, student, **changes), student)
    return [bool(row.any()) for row in slope[0]]


def test_the_reward_says_where_to_go_and_the_teacher_how_far() -> None:
    """At alpha = 1/2 the ratios are 0.78, 1.49 and 1.11 (rlad-trrd): a good second token and a bad first one are clipped."""
    assert slope_of(TRRD(), 1.0) == [True, False, True]
    assert slope_of(TRRD(), -1.0) == [False, True, True]
    assert slope_of(TRRD(), 0.0) == [False, False, False]


def test_a_token_that_the_teacher_rules_out_stays_finite() -> None:
    """Log p = -inf is taken as -20: the ratio of a bad token is exp(-0.9 - (-1 - 20) / 2)."""
    found = value(TRRD(), -3.0, logits(STUDENT), teacher=[-torch.inf, -1.5, -0.5])
    rest = 1.0 * torch.exp(torch.tensor([-0.1, 0.1], dtype=torch.float64)).sum()
    assert float(found) == pytest.approx(float(torch.exp(torch.tensor(9.6, dtype=torch.float64)) + rest), rel=1e-9)


def test_it_holds_on_to_the_student_as_it_was() -> None:
    """k3 with log p_0 - log q = 0.2, 0, -0.1: 0.021403, 0, 0.004837."""
    before = [-0.7, -1.6, -0.5]
    plain, held = (value(term, 0.0, logits(STUDENT), **{REFERENCE: before}) for term in (TRRD(), TRRD(beta=0.5)))
    assert float(held - plain) == pytest.approx(0.5 * (0.021403 + 0.004837) / 3, abs=1e-6)


def test_what_is_refused() -> None:
    with pytest.raises(UsageError, match=r"no column 'reference'; take step: GRPO\(...\)"):
        value(TRRD(beta=1.0), 1.0, logits(STUDENT))
    with pytest.raises(ShapeError, match=r"the column 'advantage' must be \[1\], got \[1, 3\]"):
        TRRD()(
            views(
                logits(STUDENT),
                logits(TEACHER),
                torch.zeros(1, 3, dtype=torch.int64),
                None,
                {DRAWN: torch.zeros(1, 3), ADVANTAGE: torch.zeros(1, 3)},
            )
        )
    for wrong in ({"alpha": 1.1}, {"clip": 0.0}, {"beta": -1.0}):
        with pytest.raises(UsageError, match=f"TRRD: {next(iter(wrong))} must"):
            TRRD(**wrong)
