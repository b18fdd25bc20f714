"""What a teacher that stands still said of samples that are asked about again and again."""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import accumulate
from typing import final

import torch
from torch import Tensor

from limbeck.core.batch import Batch
from limbeck.core.outputs import Outputs


@final
class Remembered:
    """Answers of a teacher that is asked once about each of some pieces of the data.

    A batch that is a piece, or consecutive samples of one, is answered from what was said of the whole piece; so an answer does
    not hang on who asked before, and a resumed run gets the same to the last bit. Other batches are passed on. Nothing is kept
    where all answers together would take more than `most` bytes.

    Args:
        teacher: Called with a batch; its answer to a sample must never change.
        pieces: Identities of the samples of each piece, int64 [B_k]; no sample is in two.
        read: Gives the batch of these identities.
        most: Bytes that all answers together may take.
    """

    MOST = 2**28

    def __init__(
        self,
        teacher: Callable[[Batch], Outputs],
        pieces: Sequence[Tensor],
        read: Callable[[Tensor], Batch],
        most: int = MOST,
    ) -> None:
        self.teacher, self.pieces, self.read, self.most = teacher, pieces, read, most
        self.said: dict[int, Outputs] = {}
        self.sized, self.fits = False, True

    def __call__(self, batch: Batch) -> Outputs:
        """What the teacher says of the batch, without a graph where it is remembered."""
        found = self._found(batch.index.cpu()) if self.fits else None
        if found is None:
            return self.teacher(batch)
        if not self.sized:  # before a whole piece is asked about, which may be much
            said, self.sized = self.teacher(batch), True
            self.fits = size(said) * len(self._places[0]) <= self.most * len(batch)
            if not self.fits:
                return said
        number, rows = found
        if number not in self.said:
            self.said[number] = self.teacher(self.read(self.pieces[number])).detach()
        return self.said[number].take(rows)

    @cached_property
    def _places(self) -> tuple[Tensor, Tensor, list[int]]:
        """All identities in ascending order, their places in the pieces laid end to end, and where each piece ends."""
        rows, places = torch.cat([piece.cpu() for piece in self.pieces]).sort()
        return rows, places, list(accumulate(map(len, self.pieces)))

    def _found(self, index: Tensor) -> tuple[int, slice] | None:
        """The piece that these are consecutive samples of, and where they stand in it; None where there is none."""
        rows, places, ends = self._places
        at = int(torch.searchsorted(rows, index[0]))
        if at == len(rows) or rows[at] != index[0]:
            return None
        number = bisect_right(ends, int(places[at]))
        start = int(places[at]) - ends[number] + len(self.pieces[number])
        found = slice(start, start + len(index))
        return (number, found) if torch.equal(self.pieces[number][found].cpu(), index) else None


def size(outputs: Outputs) -> int:
    """The bytes of all parts together."""
    sizes: list[int] = []

    def note(part: Tensor) -> Tensor:
        sizes.append(part.numel() * part.element_size())
        return part

    outputs.map(note)
    return sum(sizes)
