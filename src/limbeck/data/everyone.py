"""All samples of some rows, gone through piece by piece. Knows of models only that those of language answer at every token."""

from collections.abc import Iterator
from typing import final

import torch
from torch import Tensor

from limbeck.core.batch import Batch
from limbeck.data.loader import Loader
from limbeck.data.source import Source

LOGITS = 2**22
"""Logits that are held at once for language."""


@final
class Everyone:
    """Samples as they are, untransformed, in the order of their rows; read anew by whoever goes through them.

    Args:
        source: Where the samples come from.
        rows: int64 [R], which of them.
        labels: By row of the source, as for `Loader`.
        most: Samples of a piece at the most, >= 1; of language fewer where they would have more than `LOGITS` logits.
        least: Samples of a piece of language in any case, >= 1.
        device: Where they are to be.
        workers: Processes that read ahead.

    Attributes:
        size: Samples of every piece but the last.
    """

    def __init__(
        self,
        source: Source,
        rows: Tensor,
        labels: Tensor,
        *,
        most: int,
        least: int = 1,
        device: torch.device | str = "cpu",
        workers: int = 0,
    ) -> None:
        if source.kind == "language":
            most = min(most, max(least, LOGITS // (source.input_shape[0] * source.outputs)))
        self.size, self.device = min(most, len(rows)), device
        self.loader = Loader(
            source, rows, batch_size=self.size, seed=0, labels=labels, shuffle=False, drop_last=False, workers=workers
        )

    def __iter__(self) -> Iterator[Batch]:
        """The pieces, one after the other."""
        return (batch.to(self.device) for batch in self.loader)
