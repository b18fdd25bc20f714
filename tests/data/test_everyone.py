"""All samples of some rows, piece by piece."""

import pytest
import torch

from limbeck.data.everyone import LOGITS, Everyone
from limbeck.data.source import InMemory

ROWS = torch.tensor([9, 2, 4, 7, 0, 5, 1])


def of_language(vocabulary: int, length: int = 8) -> InMemory:
    return InMemory(torch.zeros(10, length, dtype=torch.int64), torch.zeros(10, length, dtype=torch.int64), vocabulary=vocabulary)


def test_the_samples_come_in_the_order_of_their_rows_again_and_again() -> None:
    source = InMemory(torch.arange(20.0).view(10, 2), torch.arange(10) % 3)
    everyone = Everyone(source, ROWS, source.labels, most=3)
    for _ in range(2):
        pieces = list(everyone)
        assert [len(piece) for piece in pieces] == [3, 3, 1]
        assert torch.equal(torch.cat([piece.index for piece in pieces]), ROWS)
        assert torch.equal(torch.cat([piece.inputs for piece in pieces]), source.inputs[ROWS])


@pytest.mark.parametrize(
    "vocabulary, least, size",
    [(100, 1, 6), (LOGITS // 16, 1, 2), (LOGITS // 16, 4, 4), (LOGITS // 16, 50, 6), (LOGITS, 1, 1)],
)
def test_of_language_no_more_go_together_than_there_is_room_for_logits(vocabulary: int, least: int, size: int) -> None:
    source = of_language(vocabulary)
    everyone = Everyone(source, ROWS, source.labels, most=6, least=least)
    assert everyone.size == max(map(len, everyone)) == size
