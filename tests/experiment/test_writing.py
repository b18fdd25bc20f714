"""What is measured of completions: what is given, what is the reference, and how the teacher comes in."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from limbeck.align.taps import Tapped
from limbeck.core.batch import Batch
from limbeck.core.errors import UsageError
from limbeck.data.tokens import Bytes
from limbeck.experiment.writing import Exam
from limbeck.teachers.single import Single

TEXT = "abcdefgh"


class Counting(nn.Module):
    """After a byte comes the next one, after `last` the end; sure of it to `logit`."""

    def __init__(self, last: str, logit: float = 20.0) -> None:
        super().__init__()
        self.last, self.logit = ord(last), logit

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        following = torch.where(ids == self.last, Bytes.eos, ids + 1)
        return self.logit * F.one_hot(following.clamp(max=Bytes.size - 1), Bytes.size).double()


def packed() -> Batch:
    """One row of eight bytes and a row that is padded from its third label on, which leaves nothing behind its half."""
    ids = torch.tensor([Bytes().encode(TEXT + "i"), Bytes().encode("abc") + [Bytes.pad] * 6])
    mask = torch.tensor([[True] * 8, [True, True] + [False] * 6])
    return Batch(ids[:, :-1], ids[:, 1:], torch.arange(2), mask)


def asked() -> Batch:
    """Prompt "ab", answer "cd" and the end; one other whose answer is "ce"."""
    ids = torch.tensor([[*Bytes().encode(text), Bytes.eos, Bytes.pad, Bytes.pad] for text in ("abcd", "abce")])
    mask = (torch.arange(6) >= 1) & (torch.arange(6) < 4)
    return Batch(ids[:, :-1], ids[:, 1:], torch.arange(2), mask.expand(2, 6))


def test_packed_rows_are_gone_on_with_from_their_half() -> None:
    exam = Exam.of(packed(), 5, Bytes(), Bytes.size)
    assert exam.rows.index.tolist() == [0]
    assert exam._references() == ["efghi"]
    assert exam.figures(Tapped(Counting("z")), None) == {"rouge_l": 1.0, "exact_match": 1.0}
    assert exam.figures(Tapped(Counting("f")), None)["exact_match"] == 0.0


def test_prompts_are_answered_up_to_the_end() -> None:
    """The student writes "cd" twice, which one reference says; the teacher "c", which none does."""
    exam, student, teacher = Exam.of(asked(), 9, Bytes(), Bytes.size), Tapped(Counting("d")), Single(Counting("c"))
    found = exam.figures(student, teacher)
    assert (found["rouge_l"], found["exact_match"], found["same_completion"], found["copied_errors"]) == (0.5, 0.5, 0.0, 0.0)
    assert exam.figures(student, Single(Counting("d")))["copied_errors"] == 1.0
    # Of the tokens c, d, end that the student wrote, the teacher would have said c, then the end, and e after d.
    assert found["own_agreement"] == pytest.approx(1 / 3)
    # Both are sure of one token: with 258 of them and a logit of 20 the divergence is nearly 20 where these differ.
    sure = 1 / (1 + 257 * torch.tensor(-20.0).double().exp())
    other = (1 - sure) / 257
    assert found["own_kl"] == pytest.approx(float(2 / 3 * (sure - other) * 20), rel=1e-6)


def test_nothing_to_complete_is_refused() -> None:
    with pytest.raises(UsageError, match="no test row has counted tokens behind its prompt"):
        Exam.of(packed().take(torch.tensor([1])), 1, Bytes(), Bytes.size)
