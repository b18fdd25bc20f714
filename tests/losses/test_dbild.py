"""DBiLD: the sheet's numbers, the knee, limits, and the plain double loop."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

from limbeck.core.errors import ShapeError, UsageError
from limbeck.losses.logits.dbild import DBiLD, differences, knee
from support.makers import LLM_STUDENT, normal, views

TEACHER = torch.tensor([[2, 1, 0.5, -1], [0.2, 0, 3, 1]], dtype=torch.float64)  # as on the sheet, without its tie
BOTH = views(LLM_STUDENT, TEACHER, None)


def near(found: Tensor, wanted: list[float]) -> None:
    assert_close(found, torch.tensor(wanted, dtype=torch.float64), rtol=0, atol=5.1e-7)


def test_golden_numbers() -> None:
    leading = TEACHER[0].topk(3).indices
    for logits, wanted in ((TEACHER, [0.330268, 0.390166, 0.279566]), (LLM_STUDENT, [0.217559, 0.358694, 0.423747])):
        near(differences(logits[0, leading] / 3, torch.tensor(3)).exp(), wanted)
    for k, teacher_led, student_led, mean in (
        (3, [0.055252, 0.142293], [0.039603, 0.238719], 0.237933),
        (4, [0.042725, 0.150209], [0.056523, 0.161601], 0.205529),
    ):
        term = DBiLD(k=k)
        near(term.led_by(TEACHER, LLM_STUDENT, TEACHER), teacher_led)
        near(term.led_by(LLM_STUDENT, LLM_STUDENT, TEACHER), student_led)
        assert float(term(BOTH).mean()) == pytest.approx(mean, abs=5.1e-7)
    assert float(DBiLD(k=3, reverse=False)(BOTH).mean()) == pytest.approx(0.225646, abs=5.1e-7)


def test_the_knee() -> None:
    curve = torch.tensor([8, 7, 6.5, 2, 1.5, 1.2, 1, 0.9, 0.8, 0.7], dtype=torch.float64)
    assert int(knee(curve, torch.tensor(10))) == 3
    y = (curve - 0.7) / 7.3
    x = torch.arange(10, dtype=torch.float64) / 9
    near((1 - x - y)[:5], [0, 0.025875, -0.016743, 0.488584, 0.445967])
    assert int(knee(torch.ones(5), torch.tensor(5))) == 0  # a flat curve has none; k_min stands in


def slow(student: Tensor, teacher: Tensor, tau: float, least: int, most: int) -> Tensor:
    """One row: the definition, pair by pair."""
    total = torch.zeros((), dtype=torch.float64)
    for leader in (teacher, student):
        p = (leader / tau).softmax(0).sort(descending=True).values
        k = min(max(int(knee(p, torch.tensor(len(p)))), least), most)
        places = leader.argsort(descending=True)[:k].tolist()
        pairs = [(m, n) for i, m in enumerate(places) for n in places[i + 1 :]]
        q, p = (torch.stack([(z[m] - z[n]) / tau for m, n in pairs]).softmax(0) for z in (student, teacher))
        total = total + (q * (q / p).log()).sum()
    return total


def test_it_equals_the_definition_with_a_knee_per_token() -> None:
    student, teacher = 4 * normal(12, 20), 4 * normal(12, 20, seed=1)
    wanted = torch.stack([slow(*pair, 3.0, 4, 9) for pair in zip(student, teacher, strict=True)])
    assert_close(DBiLD(k_max=9)(views(student, teacher, None)), wanted)


@pytest.mark.parametrize("term", [DBiLD(), DBiLD(k=3), DBiLD(k_max=9, reverse=False)], ids=repr)
@pytest.mark.parametrize("who", ["student", "teacher", "both"])
def test_classes_that_are_ruled_out_are_as_if_they_were_not_there(term: DBiLD, who: str) -> None:
    sides, slopes = [4 * normal(6, 20), 4 * normal(6, 20, seed=1)], []
    values = []
    for more in (0, 130):  # more classes than the knee is looked for in
        padded = [
            F.pad(side, (0, more), value=-torch.inf if who in (name, "both") else 9.0)
            for side, name in zip(sides, ("student", "teacher"), strict=True)
        ]
        padded[0].requires_grad_()
        values.append(term(views(padded[0], padded[1], None)))
        slopes.append(torch.autograd.grad(values[-1].sum(), padded[0])[0])
    assert_close(values[1], values[0])
    assert_close(slopes[1], F.pad(slopes[0], (0, 130)))


def test_with_one_class_left_there_is_nothing_to_compare() -> None:
    teacher = torch.full((2, 5), -torch.inf, dtype=torch.float64)
    teacher[:, 1] = 1
    student = normal(2, 5).requires_grad_()
    value = DBiLD()(views(student, teacher, None))
    assert value.tolist() == [0, 0]
    assert torch.autograd.grad(value.sum(), student)[0].abs().sum() == 0


def test_shifts_change_nothing() -> None:
    plain = DBiLD()(BOTH)
    assert_close(DBiLD()(views(LLM_STUDENT + 5, TEACHER, None)), plain)
    assert_close(DBiLD()(views(LLM_STUDENT, TEACHER - 7, None)), plain)


def test_errors() -> None:
    for make in (lambda: DBiLD(k=2), lambda: DBiLD(k_min=2)):
        with pytest.raises(UsageError, match="at least 3"):
            make()
    with pytest.raises(UsageError, match="k_max must be at least k_min"):
        DBiLD(k_min=9, k_max=8)
    with pytest.raises(ShapeError, match="DBiLD: at least 3 classes"):
        DBiLD()(views(normal(2, 2), normal(2, 2, seed=1), None))


def test_a_student_that_has_diverged_is_not_taken_for_one_that_rules_classes_out() -> None:
    gone = views(torch.full_like(LLM_STUDENT, torch.nan), TEACHER, None)
    assert DBiLD()(gone).isnan().all()
