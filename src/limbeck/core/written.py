"""What somebody offers that writes whole completions, such as a server with a language model."""

from dataclasses import dataclass
from typing import Protocol, final, runtime_checkable


@final
@dataclass(frozen=True)
class Wanted:
    """A completion that is asked for.

    Args:
        prompt: Token ids, at least one.
        length: Tokens at most, >= 1.
        temperature: Of the drawing, >= 0; 0 takes the most probable token.
        top_p: In (0, 1]: draw among the most probable tokens of this mass.
        seed: Of the drawing, None where nothing is drawn.
        eos: The token that ends a text; None: all `length` tokens are written.
    """

    prompt: tuple[int, ...]
    length: int
    temperature: float
    top_p: float
    seed: int | None
    eos: int | None


@runtime_checkable
class Writes(Protocol):
    """Writes completions.

    Attributes:
        together: How many may be asked for at once, from as many threads.
    """

    together: int

    def complete(self, wanted: Wanted) -> tuple[list[int], list[float]]:
        """The tokens of a completion, 1 to `length`, and the log-probability of each at temperature 1."""
