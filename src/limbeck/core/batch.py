"""What flows in: a batch of samples, each with an identity that lasts for the whole run."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from limbeck.core.errors import ShapeError

UNLABELLED = -1
"""What stands in the place of the label of a sample that has none."""
MIXTURE = ("mixed_first", "mixed_second", "mixed_share")
"""The columns of a batch whose samples were mixed in pairs: both labels, and the share of the first."""
PARTNER = "mixed_with"
"""The column of the second's identity; the sample's own is the first's."""


@dataclass(frozen=True)
class Batch:
    """Samples as they are handed to student, teacher and terms. Frozen: a transform returns a new one.

    Args:
        inputs: [B, ...] floats (vectors, images) or int64 token ids [B, L].
        targets: [B] int64 labels as given, -1 for a sample that has none; [B, L] int64 for token tasks, -1 for a token that has
            none; or None where no sample has one.
        index: [B] int64, each sample's identity: its row in the source, the same for the whole run.
        mask: [B, L] bool, true where a token counts, or None.
        meta: Further columns, one row per sample.

    Raises:
        ShapeError: A part has another number of rows than `index`.
    """

    inputs: Tensor
    targets: Tensor | None
    index: Tensor
    mask: Tensor | None = None
    meta: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rows = len(self.index)
        parts = {"inputs": self.inputs, "targets": self.targets, "mask": self.mask, **self.meta}
        for name, part in parts.items():
            if part is not None and len(part) != rows:
                raise ShapeError(f"Batch: {name} has {len(part)} rows and index has {rows}; give one row per sample.")

    def __len__(self) -> int:
        return len(self.index)

    @property
    def labelled(self) -> Tensor | None:
        """Which samples have a label, [B] bool; None for tokens, and where there are no labels at all."""
        return None if self.targets is None or self.targets.dim() != 1 else self.targets >= 0

    @property
    def label_mask(self) -> Tensor | None:
        """Where a token counts and has a label, [B, L] bool; the mask as it is where labels are not those of tokens."""
        if self.targets is None or self.targets.dim() != 2:
            return self.mask
        known = self.targets >= 0
        if self.mask is None:
            return known
        return self.mask & known if self.mask.shape == known.shape else self.mask  # terms say what does not fit

    @property
    def mixture(self) -> "tuple[Tensor, Tensor, Tensor] | None":
        """Where a transform mixed samples in pairs: both labels and the share of the first, [B] each; else None.

        Such a batch has no `targets`: a term that wants one label per sample refuses it, and none takes the wrong one.
        """
        found = [self.meta[name] for name in MIXTURE if name in self.meta]
        return (found[0], found[1], found[2]) if len(found) == len(MIXTURE) else None

    def looked_up(self, table: Tensor) -> Tensor:
        """Each sample's number in a table by identity, [N] -> [B]; of two that were mixed, both numbers by their shares."""
        own = table[self.index]
        if PARTNER not in self.meta:
            return own
        share = self.meta[MIXTURE[2]].to(own)
        return share * own + (1 - share) * table[self.meta[PARTNER]]

    def map(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        """The batch with every part changed."""
        return replace(
            self,
            inputs=change(self.inputs),
            targets=None if self.targets is None else change(self.targets),
            index=change(self.index),
            mask=None if self.mask is None else change(self.mask),
            meta={name: change(part) for name, part in self.meta.items()},
        )

    def take(self, rows: Tensor | slice) -> "Batch":
        """The samples at these positions, in this order."""
        return self.map(lambda part: part[rows])

    def to(self, device: torch.device | str) -> "Batch":
        """The same samples on another device."""
        return self.map(lambda part: part.to(device))

    def split(self, parts: int) -> "list[Batch]":
        """Cut into at most `parts` consecutive batches of nearly equal size; none is empty."""
        return [self.take(rows) for rows in torch.arange(len(self)).tensor_split(max(min(parts, len(self)), 1)) if len(rows)]

    @staticmethod
    def concat(parts: "Sequence[Batch]") -> "Batch":
        """The samples of several batches, one after the other; a column that one of them lacks is left out."""
        first = parts[0]
        if len(parts) == 1:
            return first

        def joined(of: Callable[[Batch], Tensor | None]) -> Tensor | None:
            columns = [column for column in map(of, parts) if column is not None]
            return torch.cat(columns) if len(columns) == len(parts) else None

        shared = [name for name in first.meta if all(name in part.meta for part in parts)]
        return Batch(
            torch.cat([part.inputs for part in parts]),
            joined(lambda part: part.targets),
            torch.cat([part.index for part in parts]),
            joined(lambda part: part.mask),
            {name: torch.cat([part.meta[name] for part in parts]) for name in shared},
        )
