"""From text to token ids and back: what a tokenizer must offer, and one for bytes. Knows nothing of files or samples."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import final

from limbeck.core.errors import UsageError

Turn = dict[str, str]
"""A turn of a conversation, {"role": "user", "content": "..."}."""


class Tokens(ABC):
    """A tokenizer as data readers, rollouts and stored teachers see it. Its repr is the expression that one would type.

    Attributes:
        size: How many ids there are: every id is below.
        pad: The id that fills up short rows. Such places never count, so it may be another token's too.
        eos: The id that ends a text.
    """

    size: int
    pad: int
    eos: int

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """The ids of a text, without any that open or end it."""

    @abstractmethod
    def decode(self, ids: Sequence[int]) -> str:
        """The text of these ids; those that open, end or fill up a text are left out."""

    def joined(self, parts: Sequence[str], length: int) -> list[int]:
        """The ids of one or two texts as a classifier reads them, with what stands around and between, at most `length`."""
        ids = [token for part in parts for token in (self.eos, *self.encode(part))][1:]
        return ids[:length] or [self.eos]

    def chat(self, turns: Sequence[Turn], *, answer: bool = False) -> list[int]:
        """The ids of a conversation, by the tokenizer's own template.

        Args:
            turns: Who said what.
            answer: Whether the opening of the assistant's next turn follows.

        Raises:
            UsageError: The tokenizer has no template.
        """
        raise UsageError(f"{self!r}: this tokenizer has no chat template; leave out chat=True, or take a model's own tokenizer.")


@final
class Bytes(Tokens):
    """The bytes of a text in UTF-8 as ids 0 to 255; 256 ends a text, 257 pads. Needs no file and knows every language.

    >>> Bytes().encode("né"), Bytes().decode([110, 195, 169, 256])
    ([110, 195, 169], 'né')
    """

    size, eos, pad = 258, 256, 257

    def encode(self, text: str) -> list[int]:
        """The text's bytes."""
        return list(text.encode("utf-8"))

    def decode(self, ids: Sequence[int]) -> str:
        """The text of these bytes; a character that was cut in two is shown as such."""
        return bytes(token for token in ids if token < 256).decode("utf-8", "replace")

    def __repr__(self) -> str:
        return "Bytes()"
