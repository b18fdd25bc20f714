"""What models give back, and the two sides that a term compares."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from limbeck.core.batch import Batch
from limbeck.core.topk import TopK


@dataclass(frozen=True)
class Outputs:
    """What a model says of a batch.

    Args:
        logits: [B, C], or [B, L, V] for token tasks; [B, 0] or [B, L, 0] where only `sparse` is known.
        features: Inner activations by module name, as asked for from the taps room.
        sparse: The most probable classes and the mass of the others, from teachers that know no more.
        reference: Of a teacher that was aligned to preferences: what it said before.
    """

    logits: Tensor
    features: Mapping[str, Tensor] = field(default_factory=dict)
    sparse: TopK | None = None
    reference: "Outputs | None" = None

    @property
    def classes(self) -> int | None:
        """How many classes the answer is about; None where nobody knows."""
        return self.logits.shape[-1] if self.sparse is None or self.logits.shape[-1] else self.sparse.classes

    def map(self, change: Callable[[Tensor], Tensor]) -> "Outputs":
        """The outputs with every part changed."""
        sparse = None if self.sparse is None else self.sparse.map(change)
        reference = None if self.reference is None else self.reference.map(change)
        return Outputs(change(self.logits), {name: change(part) for name, part in self.features.items()}, sparse, reference)

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
        known = [part.sparse for part in parts if part.sparse is not None]
        sparse = TopK.concat(known) if len(known) == len(parts) else None
        before = [part.reference for part in parts if part.reference is not None]
        reference = Outputs.concat(before) if len(before) == len(parts) else None
        return Outputs(torch.cat([part.logits for part in parts]), features, sparse, reference)


@dataclass(frozen=True)
class Views:
    """All that a term sees: the student's and the teacher's outputs on one batch. The teacher is None where none is needed."""

    student: Outputs
    teacher: Outputs | None
    batch: Batch
