"""TAID: the sheet's numbers, its schedule step by step, and a run that is cut in two."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

from limbeck.core.errors import UsageError
from limbeck.core.term import Moment
from limbeck.functional.divergences import entropy, log_softmax
from limbeck.losses.logits.kd import KD
from limbeck.losses.logits.taid import TAID
from support.makers import LLM_STUDENT, LLM_TEACHER, token_views, views


def at(t: float) -> TAID:
    return TAID(start=t)


@pytest.mark.parametrize(
    "t, rows, mean, cross",
    [
        (0.0, [0, 0], 0, 1.097577),
        (0.4, [0.039690, 0.151584], 0.095637, 1.231118),
        (1.0, [0.230487, 0.813638], 0.522063, 1.365303),
    ],
)
def test_golden_numbers(t: float, rows: list[float], mean: float, cross: float) -> None:
    value = at(t)(views(LLM_STUDENT, LLM_TEACHER, None))
    assert_close(value, torch.tensor(rows, dtype=torch.float64), rtol=0, atol=5.1e-7)
    assert float(value.mean()) == pytest.approx(mean, abs=5.1e-7)
    # The authors' code leaves out the target's entropy: cross-entropy = KL + H(p_t).
    target = log_softmax((1 - t) * LLM_STUDENT + t * LLM_TEACHER)
    assert float((value + entropy(target)).mean()) == pytest.approx(cross, abs=5.1e-7)


def test_at_0_the_target_is_the_student_held_fixed_and_at_1_it_is_kd() -> None:
    student = LLM_STUDENT.clone().requires_grad_()
    value = at(0)(views(student, LLM_TEACHER, None))
    (slope,) = torch.autograd.grad(value.sum(), student)
    assert_close(value, torch.zeros_like(value), rtol=0, atol=1e-15)
    assert_close(slope, torch.zeros_like(slope), rtol=0, atol=1e-15)
    assert_close(at(1)(token_views()), KD(T=1)(token_views()))


@pytest.mark.parametrize("t", [0.0, 0.4, 1.0])
def test_classes_that_both_rule_out_are_as_if_they_were_not_there(t: float) -> None:
    values, slopes = [], []
    for more in (0, 3):
        student, teacher = (F.pad(side, (0, more), value=-torch.inf) for side in (LLM_STUDENT, LLM_TEACHER))
        student.requires_grad_()
        values.append(at(t)(views(student, teacher, None)))
        slopes.append(torch.autograd.grad(values[-1].sum(), student)[0])
    assert_close(values[1], values[0])
    assert_close(slopes[1], F.pad(slopes[0], (0, 3)))


def test_what_the_teacher_rules_out_has_no_chance_at_0_as_at_the_smallest_t() -> None:
    """By hand: p_0 is the student on the other classes, so that KL(p_0 || student) = -log of the student's mass there."""
    student, teacher = LLM_STUDENT.clone().requires_grad_(), LLM_TEACHER.clone()
    teacher[:, 2] = -torch.inf
    mass = 1 - LLM_STUDENT.softmax(1)[:, 2]
    value = at(0)(views(student, teacher, None))
    assert_close(value, -mass.log())
    assert_close(at(1e-12)(views(student, teacher, None)), value)
    assert torch.autograd.grad(value.sum(), student)[0].isfinite().all()


def test_the_gradient_holds_the_target_and_leaves_the_teacher_alone() -> None:
    student, teacher = LLM_STUDENT.clone().requires_grad_(), LLM_TEACHER.clone()
    (slope,) = torch.autograd.grad(at(0.3)(views(student, teacher, None)).sum(), student)
    target = (0.7 * LLM_STUDENT + 0.3 * LLM_TEACHER).softmax(1)  # mixed in logits, not in probabilities
    assert_close(slope, LLM_STUDENT.softmax(1) - target)


def moved(term: TAID, losses: list[float], first: int = 0, steps: int = 100) -> list[float]:
    found = []
    for number, loss in enumerate(losses, first):
        term.at(Moment(number, steps, 0.0))
        term.move(loss)
        found.append(float(term.t))
    return found


def test_golden_numbers_of_the_schedule() -> None:
    term = TAID(alpha=0.1)
    assert moved(term, [2.0, 1.8]) == pytest.approx([0.4, 0.430015], abs=5e-7)
    assert float(term.m) == pytest.approx(0.001, abs=1e-12)
    assert moved(term, [1.7], first=2) == pytest.approx([0.45853627], abs=5e-9)
    assert float(term.m) == pytest.approx(0.00154556, abs=5e-9)
    assert moved(TAID(), [2.0, 1.8, 1.7]) == pytest.approx([0.4, 0.406, 0.412], abs=1e-12)  # the linear floor wins


def test_t_never_falls_and_stays_between_its_floor_and_its_end() -> None:
    term, losses = TAID(alpha=0.05, end=0.9), [2.0, 3.0, 1.0, 5.0, 5.0, 0.1] * 10
    found = moved(term, losses, steps=60)
    assert found == sorted(found)
    assert all(0.4 + 0.5 * n / 60 - 1e-12 <= t <= 0.9 for n, t in enumerate(found))
    calm, rising = TAID(alpha=0.05), TAID(alpha=0.05)
    moved(calm, [2.0, 2.0])
    moved(rising, [2.0, 3.0])
    assert float(rising.m) < 0 == float(calm.m)
    linear = moved(TAID(alpha=0), losses, steps=60)
    assert linear == pytest.approx([0.4] + [0.4 + 0.6 * n / 60 for n in range(1, 60)])


def test_a_remembered_step_moves_t_by_the_mean_loss_and_resumes_from_the_state() -> None:
    whole, both = TAID(alpha=0.1), [token_views(seed=seed) for seed in range(4)]
    for number, part in enumerate(both):
        if number == 2:
            kept = copy.deepcopy(whole.state_dict())
        wanted = float(whole(part).mean())
        whole.at(Moment(number, 10, 0.0))
        whole.remember(part)
        assert float(whole.loss) == pytest.approx(wanted, rel=1e-12)
    second = TAID(alpha=0.1)
    second.load_state_dict(kept)
    for number in (2, 3):
        second.at(Moment(number, 10, 0.0))
        second.remember(both[number])
    ours: Tensor = second(both[0])
    assert torch.equal(ours, whole(both[0]))
    assert second.state_dict() == whole.state_dict()


def test_errors() -> None:
    with pytest.raises(UsageError, match="end must be at least start"):
        TAID(start=0.5, end=0.4)
    with pytest.raises(UsageError, match="start must lie in"):
        TAID(start=1.5)
