"""ULD and GOLD across vocabularies and tokenizers: the sheet's numbers, limits, and the chain rule by hand."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from limbeck.core.batch import Batch
from limbeck.core.errors import ShapeError, UsageError
from limbeck.core.outputs import Outputs, Views
from limbeck.distiller import Distiller
from limbeck.functional.vocabularies import sorted_distance
from limbeck.losses.logits.gold import GOLD
from limbeck.losses.logits.jsd import JSD
from limbeck.losses.logits.kd import KD
from limbeck.losses.logits.uld import ULD
from limbeck.teachers.single import Single
from support.makers import LLM_STUDENT, LLM_TEACHER, normal, random_views, token_views, views

BOTH = views(LLM_STUDENT, LLM_TEACHER, None)


def test_golden_numbers() -> None:
    value = ULD()(BOTH)
    assert_close(value, torch.tensor([0.245979, 0.424162], dtype=torch.float64), rtol=0, atol=5.1e-7)
    assert float(value.mean()) == pytest.approx(0.335071, abs=5.1e-7)
    five, three = torch.tensor([0.5, 0.2, 0.15, 0.1, 0.05]), torch.tensor([0.6, 0.3, 0.1])
    assert float(sorted_distance(five, three)) == pytest.approx(0.4, abs=1e-6)
    assert float(sorted_distance(three, five)) == pytest.approx(0.4, abs=1e-6)
    assert float(ULD()(views(three.log().unsqueeze(0), five.log().unsqueeze(0), None))) == pytest.approx(0.4, abs=1e-6)


def test_it_is_blind_to_which_class_is_which_and_at_most_2() -> None:
    order = torch.tensor([3, 1, 0, 2])
    assert_close(ULD()(views(LLM_TEACHER[:, order], LLM_TEACHER, None)), torch.zeros(2, dtype=torch.float64))
    flat, sure = torch.zeros(1, 1000).double(), torch.tensor([[500.0, 0]]).double()
    assert float(ULD()(views(flat, sure, None))) == pytest.approx(2 * (1 - 1 / 1000))


def crossed(student: Tensor, teacher: Tensor, mask: Tensor, theirs: Tensor) -> Views:
    return views(student, teacher, None, mask, {"teacher_mask": theirs})


def test_tokens_of_other_lengths_are_paired_in_order_up_to_the_shorter_side() -> None:
    student, teacher = normal(3, 4, 5), normal(3, 6, 7, seed=1)
    mask = torch.tensor([[0, 1, 1, 1], [1, 0, 1, 0], [0, 0, 0, 0]], dtype=torch.bool)
    theirs = torch.tensor([[0, 0, 1, 1, 0, 0], [1, 0, 0, 1, 1, 1], [1, 1, 1, 1, 1, 1]], dtype=torch.bool)
    pairs = [[(1, 2), (2, 3)], [(0, 0), (2, 3)], []]
    wanted = [
        torch.stack([ULD()(views(student[row, [own]], teacher[row, [other]], None))[0] for own, other in part]).mean()
        if part
        else torch.tensor(0.0, dtype=torch.float64)
        for row, part in enumerate(pairs)
    ]
    assert_close(ULD()(crossed(student, teacher, mask, theirs)), torch.stack(wanted))
    assert_close(GOLD([])(crossed(student, teacher, mask, theirs)), torch.stack(wanted))


def test_gold_between_its_two_halves() -> None:
    both = token_views()
    assert_close(GOLD(beta=0.3)(both), JSD(0.3)(both))  # everything shared
    assert_close(GOLD([])(both), ULD()(both))  # nothing
    student, teacher = random_views().student.logits, normal(6, 7, seed=8)
    p, q = teacher.softmax(1), student.softmax(1)
    m = (p[:, [4, 1]] + q[:, [0, 2]]) / 2
    kl = (p[:, [4, 1]] * (p[:, [4, 1]] / m).log() + q[:, [0, 2]] * (q[:, [0, 2]] / m).log()).sum(1) / 2
    rest = sorted_distance(p[:, [0, 2, 3, 5, 6]], q[:, [1, 3, 4]])
    assert_close(GOLD([(0, 4), (2, 1)])(views(student, teacher, None)), 2 / 7 * kl + 5 / 7 * rest)


def test_gold_by_hand_on_groups_of_tokens() -> None:
    """The student has ab|c in two tokens and the teacher in one; then both d."""

    def logits(rows: list[list[float]]) -> Tensor:
        return torch.tensor([rows], dtype=torch.float64).log()

    student = logits([[0.5, 0.5], [0.8, 0.2], [0.4, 0.6], [0.9, 0.1]])
    teacher = logits([[0.3, 0.7], [0.1, 0.9], [0.5, 0.5]])
    meta = {
        "student_groups": torch.tensor([[0, 0, 1, -1]]),
        "teacher_groups": torch.tensor([[0, 1, -1]]),
        "teacher_targets": torch.tensor([[1, 1, -100]]),
    }
    both = views(student, teacher, torch.tensor([[0, 1, 1, -100]]), None, meta)
    # Group 0 of the student: p(token 0) = 0.5 times its second row = (0.4, 0.1); against (0.3, 0.7): sorted |0.7 - 0.4| +
    # |0.3 - 0.1| = 0.5. Group 1: (0.6, 0.4) against (0.9, 0.1): 0.6. The mean is 0.55.
    assert float(GOLD([])(both)) == pytest.approx(0.55, abs=1e-12)

    def jsd(p: list[float], q: list[float]) -> float:
        return sum(0.5 * a * math.log(2 * a / (a + b)) + 0.5 * b * math.log(2 * b / (a + b)) for a, b in zip(p, q, strict=True))

    wanted = (jsd([0.3, 0.7], [0.4, 0.1]) + jsd([0.1, 0.9], [0.4, 0.6])) / 2
    assert float(GOLD()(both)) == pytest.approx(wanted, abs=1e-12)
    whole = views(student[:, :3], student[:, :3], None)
    assert_close(GOLD()(whole), torch.zeros(1, dtype=torch.float64))


def test_groups_take_the_gradient_through_every_token_of_theirs() -> None:
    student, teacher = normal(1, 4, 3).requires_grad_(), normal(1, 2, 5, seed=1)
    meta = {
        "student_groups": torch.tensor([[0, 0, 0, -1]]),
        "teacher_groups": torch.tensor([[0, -1]]),
        "teacher_targets": torch.tensor([[4, -100]]),
    }
    value = GOLD([(0, 1)])(views(student, teacher, torch.tensor([[1, 2, 0, -100]]), None, meta))
    (slope,) = torch.autograd.grad(value.sum(), student)
    assert (slope[0].abs().sum(1) > 0).tolist() == [True, True, True, False]


class Answer(nn.Module):
    """A linear net of so many classes."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.layer = nn.Linear(3, classes)

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.layer(inputs)
        return found


def test_the_distiller_lets_other_classes_pass_where_all_terms_cross() -> None:
    batch = Batch(torch.zeros(2, 3), torch.tensor([0, 1]), torch.arange(2))
    Distiller(Answer(4), Single(Answer(6)), ULD() + GOLD()).check(batch)
    with pytest.raises(ShapeError, match="answers for 4 classes and the teacher for 6"):
        Distiller(Answer(4), Single(Answer(6)), ULD() + KD()).check(batch)


def test_errors() -> None:
    with pytest.raises(ShapeError, match=r"ULD: .*are of other tokens"):
        ULD()(views(normal(2, 3, 4), normal(2, 5, 4), None))
    with pytest.raises(ShapeError, match=r"it needs batch\.mask"):
        ULD()(Views(Outputs(normal(2, 3, 4)), Outputs(normal(2, 5, 4)), crossed_batch()))
    for wrong in ([(0, 0), (0, 1)], [(0, 1), (1, 1)], [(-1, 0)], [(1, 2, 3)]):
        with pytest.raises(UsageError, match="GOLD: shared must be pairs"):
            GOLD(wrong)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="beyond the student's 4 or the teacher's 4"):
        GOLD([(4, 0)])(BOTH)
    groups = {"student_groups": torch.tensor([[0, 1]]), "teacher_groups": torch.tensor([[0, 0]])}
    targets = torch.zeros(1, 2, dtype=torch.int64)
    with pytest.raises(ShapeError, match="GOLD: student_groups needs teacher_targets"):
        GOLD()(views(normal(1, 2, 3), normal(1, 2, 3), targets, None, groups))
    with pytest.raises(ShapeError, match=r"have \[2\] and \[1\] groups"):
        GOLD()(views(normal(1, 2, 3), normal(1, 2, 3), targets, None, groups | {"teacher_targets": targets}))


def crossed_batch() -> Batch:
    return Batch(torch.zeros(2, 1), None, torch.arange(2), None, {"teacher_mask": torch.ones(2, 5, dtype=torch.bool)})
