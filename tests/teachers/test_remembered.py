"""A teacher that stands still is asked once about samples that come again."""

import torch

from limbeck.core.batch import Batch
from limbeck.core.outputs import Outputs
from limbeck.teachers.remembered import Remembered


class Counting:
    """Answers with a sample's own number, and notes what it was asked."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []

    def __call__(self, batch: Batch) -> Outputs:
        self.asked.append(batch.index.tolist())
        logits = torch.stack([batch.index.double(), torch.full((len(batch),), float(len(self.asked))).double()], 1)
        return Outputs(logits.requires_grad_(), {"middle": logits[:, :1] * 2})


def of(*rows: int) -> Batch:
    return Batch(torch.zeros(len(rows), 1), None, torch.tensor(rows))


def remembering(teacher: Counting, most: int = Remembered.MOST) -> Remembered:
    return Remembered(teacher, [torch.tensor([4, 7, 5]), torch.tensor([2])], lambda rows: of(*rows.tolist()), most)


def test_it_is_asked_once_about_each_piece_whoever_asks_first() -> None:
    teacher = Counting()
    remembered = remembering(teacher)
    part, whole = remembered(of(7, 5)), remembered(of(4, 7, 5))
    assert torch.equal(part.logits, whole.logits[1:])
    assert torch.equal(whole.features["middle"].flatten(), torch.tensor([8.0, 14.0, 10.0]).double())
    assert remembered(of(2)).logits[0, 0] == 2
    assert teacher.asked == [[7, 5], [4, 7, 5], [2]]  # first a few, to see how much an answer is
    assert not whole.logits.requires_grad


def test_other_samples_and_other_orders_are_asked_about_each_time() -> None:
    teacher = Counting()
    remembered, batches = remembering(teacher), (of(7, 4), of(4, 5), of(4, 7, 5, 2), of(5, 2), of(9), of(9))
    for batch in batches:
        assert torch.equal(remembered(batch).logits[:, 0], batch.index.double())
    assert teacher.asked == [batch.index.tolist() for batch in batches]


def test_nothing_is_kept_where_all_answers_would_take_too_much() -> None:
    answers = 4 * (2 + 1) * 8  # bytes: four samples, two logits and one feature each, float64
    for most, asked in ((answers - 1, [[4, 7], [4, 7]]), (answers, [[4, 7], [4, 7, 5]])):
        teacher = Counting()
        remembered = remembering(teacher, most)
        for _ in range(2):
            assert remembered(of(4, 7)).logits[:, 0].tolist() == [4.0, 7.0]
        assert teacher.asked == asked
