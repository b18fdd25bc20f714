"""Transforms one after the other."""

from collections.abc import Callable
from typing import final

import torch

from limbeck.core.batch import Batch
from limbeck.core.errors import UsageError

Transform = Callable[[Batch, torch.Generator], Batch]


@final
class Chain:
    """Several transforms in their order, all with the same generator.

    Args:
        transforms: At least one.

    Raises:
        UsageError: There is none, or one is no transform.

    >>> from limbeck import CropFlip, MixUp
    >>> Chain(CropFlip(), MixUp())
    Chain(CropFlip(padding=4, flip=True), MixUp(alpha=1.0, mixed=1.0))
    """

    def __init__(self, *transforms: Transform) -> None:
        if not transforms:
            raise UsageError("Chain: needs at least one transform, as in Chain(CropFlip(), MixUp()).")
        strange = [part for part in transforms if not callable(part)]
        if strange:
            raise UsageError(f"Chain: each part must be a transform such as CropFlip(), got {strange[0]!r}.")
        self.transforms = transforms

    def __call__(self, batch: Batch, generator: torch.Generator) -> Batch:
        """The batch after the last of them."""
        for transform in self.transforms:
            batch = transform(batch, generator)
        return batch

    def __repr__(self) -> str:
        return f"Chain({', '.join(map(repr, self.transforms))})"
