"""The few most probable classes of a distribution and the mass of all others: what is kept of a teacher with many classes."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from limbeck.core.errors import ShapeError


@dataclass(frozen=True)
class TopK:
    """A distribution over many classes, known in k of them; of the others together.

    Args:
        ids: [B, k] or [B, L, k] int64, the classes; no class comes twice in a row.
        log_probs: Their log-probabilities, of the same shape.
        tail: [B] or [B, L], the log of the others' mass; -inf where there are none.
        T: The temperature at which the probabilities were taken, > 0.
        classes: How many classes there are; None where nobody knows.

    Raises:
        ShapeError: The parts do not fit together.
    """

    ids: Tensor
    log_probs: Tensor
    tail: Tensor
    T: float = 1.0
    classes: int | None = None

    def __post_init__(self) -> None:
        if self.ids.shape != self.log_probs.shape or self.ids.shape[:-1] != self.tail.shape:
            raise ShapeError(
                f"TopK: ids {list(self.ids.shape)} need log-probabilities of the same shape and a tail without the last axis, "
                f"got {list(self.log_probs.shape)} and {list(self.tail.shape)}."
            )

    @property
    def k(self) -> int:
        """How many classes are known one by one."""
        return self.ids.shape[-1]

    def map(self, change: Callable[[Tensor], Tensor]) -> "TopK":
        """Every part changed; ids stay whole numbers where the change is one of precision."""
        ids = change(self.ids).to(self.ids.dtype)
        return replace(self, ids=ids, log_probs=change(self.log_probs), tail=change(self.tail))

    @staticmethod
    def concat(parts: "list[TopK]") -> "TopK":
        """The rows of several, one after the other.

        Raises:
            ShapeError: They are not of the same temperature and number of classes.
        """
        first = parts[0]
        if any((part.T, part.classes) != (first.T, first.classes) for part in parts):
            raise ShapeError("TopK: only distributions of the same temperature and classes can stand in one batch.")
        ids, log_probs, tail = (torch.cat([getattr(part, name) for part in parts]) for name in ("ids", "log_probs", "tail"))
        return replace(first, ids=ids, log_probs=log_probs, tail=tail)
