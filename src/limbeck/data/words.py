"""Turns text into numbered words for a small transformer; the vocabulary is of the rows outside a fixed test split."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from limbeck.core.checks import whole

PAD, UNKNOWN, BETWEEN = 0, 1, 2
_FIRST = 3  # the number of the most frequent word
_WORD = re.compile(r"\w+|[^\w\s]")


@final
@dataclass(frozen=True)
class Words:
    """How a text column becomes token ids: lower-cased words and signs, the most frequent outside a fixed test split.

    Ids: 0 pads, 1 is every word outside the vocabulary, 2 stands between two columns, words count from 3.

    Args:
        column: The text column; two of them joined by a plus sign, "question+sentence", are read one after the other.
        size: How many words are known at most, at least 1.
        length: Tokens kept of a text, from its start, at least 1.

    Raises:
        UsageError: size or length is no whole number of at least 1.

    >>> ids, mask, vocabulary = Words(length=4).encode([["good , good film"], ["bad"]], torch.tensor([0]))
    >>> ids.tolist(), mask.tolist(), vocabulary
    ([[3, 4, 3, 5], [1, 0, 0, 0]], [[True, True, True, True], [True, False, False, False]], 6)
    """

    column: str = "text"
    size: int = 4000
    length: int = 64

    def __post_init__(self) -> None:
        whole(self.size, "Words: size")
        whole(self.length, "Words: length")

    @property
    def columns(self) -> list[str]:
        """The names of the columns that are read."""
        return [name.strip() for name in self.column.split("+")]

    def encode(self, texts: Sequence[Sequence[str]], training: Tensor) -> tuple[Tensor, Tensor, int]:
        """Token ids, which of them count, and how many different ids there can be.

        An empty text becomes one unknown word, so that no sample is without a token.

        Shapes: N rows of one text per column, int64 [R] rows that the vocabulary is built from -> int64 [N, L], bool [N, L].
        """
        split = [[_WORD.findall(part.lower()) for part in row] for row in texts]
        counts = Counter(word for row in training.tolist() for part in split[row] for word in part)
        kept = sorted(counts, key=lambda word: (-counts[word], word))[: self.size]
        number = {word: i for i, word in enumerate(kept, _FIRST)}
        padded = []
        for row in split:
            tokens = [token for part in row for token in (BETWEEN, *(number.get(word, UNKNOWN) for word in part))][1:]
            tokens = tokens[: self.length] or [UNKNOWN]
            padded.append(tokens + [PAD] * (self.length - len(tokens)))
        ids = torch.tensor(padded)
        return ids, ids != PAD, _FIRST + len(kept)
