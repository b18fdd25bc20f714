"""What models give back, and the two sides that a term compares."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from limbeck.core.batch import Batch


@dataclass(frozen=True)
class Outputs:
    """What a model says of a batch.

    Args:
        logits: [B, C], or [B, L, V] for token tasks.
        features: Inner activations by module name, as asked for from the taps room.
    """

    logits: Tensor
    features: Mapping[str, Tensor] = field(default_factory=dict)

    def map(self, change: Callable[[Tensor], Tensor]) -> "Outputs":
        """The outputs with every part changed."""
        return Outputs(change(self.logits), {name: change(part) for name, part in self.features.items()})

    def detach(self) -> "Outputs":
        """The same values without a graph behind them."""
        return self.map(Tensor.detach)

    def take(self, rows: Tensor | slice) -> "Outputs":
        """The samples at these positions."""
        return self.map(lambda part: part[rows])

    @staticmethod
    def concat(parts: "list[Outputs]") -> "Outputs":
        """The rows of several outputs, one after the other."""
        names = parts[0].features
        features = {name: torch.cat([part.features[name] for part in parts]) for name in names}
        return Outputs(torch.cat([part.logits for part in parts]), features)


@dataclass(frozen=True)
class Views:
    """All that a term sees: the student's and the teacher's outputs on one batch. The teacher is None where none is needed."""

    student: Outputs
    teacher: Outputs | None
    batch: Batch
