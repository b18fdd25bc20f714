"""Turns a text column into the ids of a tokenizer, for classification."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from limbeck.core.checks import whole
from limbeck.data.tokens import Bytes, Tokens


@final
@dataclass(frozen=True)
class Pieces:
    """How a text column becomes token ids: those of a tokenizer, cut or padded to one length.

    Args:
        tokenizer: Such as `Tokenizer("name-or-path")`, which a pretrained model needs; bytes where none is named.
        column: The text column; two of them joined by a plus sign, "question+sentence", are read one after the other.
        length: Tokens kept of a text, from its start, at least 1.

    Raises:
        UsageError: length is no whole number of at least 1.

    >>> ids, mask, vocabulary = Pieces(length=4).encode([["abc"], ["a"]], torch.tensor([0]))
    >>> ids.tolist(), mask.tolist(), vocabulary
    ([[97, 98, 99, 257], [97, 257, 257, 257]], [[True, True, True, False], [True, False, False, False]], 258)
    """

    tokenizer: Tokens = field(default_factory=Bytes)
    column: str = "text"
    length: int = 64

    def __post_init__(self) -> None:
        whole(self.length, "Pieces: length")

    @property
    def columns(self) -> list[str]:
        """The names of the columns that are read."""
        return [name.strip() for name in self.column.split("+")]

    def encode(self, texts: Sequence[Sequence[str]], training: Tensor) -> tuple[Tensor, Tensor, int]:
        """Token ids, which of them count, and how many different ids there can be.

        Shapes: N rows of one text per column, int64 [R] rows to learn from (not looked at) -> int64 [N, L], bool [N, L].
        """
        kept = [self.tokenizer.joined(row, self.length) for row in texts]
        ids = torch.tensor([row + [self.tokenizer.pad] * (self.length - len(row)) for row in kept])
        mask = torch.arange(self.length) < torch.tensor([len(row) for row in kept]).unsqueeze(1)
        return ids, mask, self.tokenizer.size
