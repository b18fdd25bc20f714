"""Batches in an order that depends on (seed, epoch) alone, so that a run resumes exactly. Knows nothing of models or losses."""

from collections.abc import Callable, Iterator
from typing import Protocol, final

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from limbeck.core.batch import Batch
from limbeck.core.checks import of_kind
from limbeck.core.checks import whole as whole_number
from limbeck.core.errors import UsageError
from limbeck.data.seeding import generator_for, seed_of
from limbeck.data.source import InMemory, Source
from limbeck.data.validity import check_inputs

Transform = Callable[[Batch, torch.Generator], Batch]
Read = tuple[Tensor, Tensor | None]


class Sampler(Protocol):
    """Chooses rows in the place of an order by epochs; it may change its mind between two stretches of batches.

    Attributes:
        every: Batches of a stretch, whose rows are chosen together, >= 1.
    """

    every: int

    def draw(self, stretch: int, count: int) -> Tensor:
        """The rows of the batches from number stretch * every on, counted over the whole run, int64 [count].

        Asked for when the batch before them has been used, and again when a run goes on in the middle of the stretch.
        """


@final
class Loader:
    """Batches of some rows of a source. The position in a run is (epoch, step); the global random state is never touched.

    Args:
        source: Where the samples come from.
        rows: int64 [R], which of them.
        batch_size: Rows per batch, at least 1.
        seed: Decides, with the epoch, the order, and with epoch and step the transform's randomness.
        labels: int64 [N], or [N, L] for language, one row per row of the *source*; a batch gets those of its rows.
        transform: Changes each batch; gets a generator of its own, seeded by (seed, epoch, step).
        shuffle: A new order every epoch; else the order of `rows`.
        drop_last: Leave out a last batch that is not full.
        workers: Processes that read ahead; 0 reads in this process, the fastest for what is in memory.
        sampler: Chooses the rows in the place of `shuffle`; an epoch is then as many batches as without it, all of them full.

    Raises:
        UsageError: No rows, rows that the source has not, more rows per batch than rows (with drop_last), or labels that do not
            fit the source.
    """

    def __init__(
        self,
        source: Source,
        rows: Tensor,
        *,
        batch_size: int,
        seed: int,
        labels: Tensor,
        transform: Transform | None = None,
        shuffle: bool = True,
        drop_last: bool = True,
        workers: int = 0,
        sampler: Sampler | None = None,
    ) -> None:
        self.batch_size = whole_number(batch_size, "Loader: batch_size")
        self.workers = whole_number(workers, "Loader: workers", least=0)
        self.seed = seed_of(seed, "Loader")
        _check_rows(source, rows, labels)
        if not len(rows):
            raise UsageError(f"Loader: there are no rows of {source.name} to read.")
        if drop_last and self.batch_size > len(rows):
            raise UsageError(
                f"Loader: batch_size={batch_size} is more than the {len(rows)} rows; take a smaller batch or drop_last=False."
            )
        self.source, self.rows, self.labels, self.transform = source, rows, labels, transform
        self.shuffle, self.drop_last, self.sampler = shuffle, drop_last, sampler

    def __len__(self) -> int:
        """Steps per epoch."""
        full, left = divmod(len(self.rows), self.batch_size)
        return full + (left > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[Batch]:
        """The batches of epoch 0, the same ones every time."""
        return self.epoch(0)

    def order(self, epoch: int) -> Tensor:
        """The rows in the order of this epoch, int64 [R]."""
        if not self.shuffle:
            return self.rows
        return self.rows[torch.randperm(len(self.rows), generator=generator_for(self.seed, epoch))]

    def epoch(self, e: int, start: int = 0) -> Iterator[Batch]:
        """The batches of epoch `e` from step `start` on: the same as those of the whole epoch from there on."""
        step = start
        for batches in self._stretches(e, start):
            for rows, (inputs, mask) in zip(batches, self._reads(batches, e), strict=True):
                batch = Batch(inputs, self.labels[rows], rows, mask, _meta(self.source, rows))
                yield batch if self.transform is None else self.transform(batch, generator_for(self.seed, e, step))
                step += 1

    def _stretches(self, epoch: int, start: int) -> Iterator[list[Tensor]]:
        """The rows of the epoch's batches from `start` on, as far as they are known at a time."""
        if self.sampler is None:
            yield list(torch.split(self.order(epoch), self.batch_size))[start : len(self)]
            return
        number, end = epoch * len(self) + start, (epoch + 1) * len(self)
        while number < end:
            stretch, past = divmod(number, self.sampler.every)
            rows = self.sampler.draw(stretch, self.sampler.every * self.batch_size)
            batches = list(torch.split(rows, self.batch_size))[past : past + end - number]
            yield batches
            number += len(batches)

    def _reads(self, batches: list[Tensor], epoch: int) -> Iterator[Read]:
        reads = _Reads(self.source)
        if not self.workers:
            return map(reads.__getitem__, batches)
        # The loader draws a seed for its workers; from a generator of ours, so that the global one stays as it is.
        own = generator_for(self.seed, epoch, 0)
        loader = DataLoader(reads, batch_size=None, sampler=batches, num_workers=self.workers, collate_fn=_as_read, generator=own)
        return iter(loader)


class _Reads(Dataset[Read]):
    """Whole batches by their rows; what is read lazily is checked here, since nobody saw it before."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.seen = isinstance(source, InMemory)

    def __getitem__(self, rows: Tensor) -> Read:
        inputs, mask = self.source.read(rows)
        if not self.seen:
            check_inputs(self.source, rows, inputs)
        return inputs, mask


def _meta(source: Source, rows: Tensor) -> dict[str, Tensor]:
    return {name: part[rows] for name, part in source.meta.items()}


def _as_read(read: object) -> object:
    return read


def _check_rows(source: Source, rows: Tensor, labels: Tensor) -> None:
    of_kind(source, Source, "Loader: source", "tensors become one by InMemory(inputs, labels), other data by a class of your own")
    of_kind(rows, Tensor, "Loader: rows", "give row numbers, such as split(source, seed=0).train")
    of_kind(labels, Tensor, "Loader: labels", f"give those of all rows, such as those of {source.name}")
    if rows.dtype != torch.int64 or rows.dim() != 1:
        raise UsageError(
            f"Loader: rows must be row numbers, int64 [R], got {rows.dtype} of shape {list(rows.shape)}; "
            "of a mask take mask.nonzero().squeeze(1)."
        )
    if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < len(source):
        wrong = int(rows.min()) if int(rows.min()) < 0 else int(rows.max())
        raise UsageError(f"Loader: {source.name} has no row {wrong}, only 0 to {len(source) - 1}.")
    if labels.shape != source.labels.shape or labels.dtype != torch.int64:
        raise UsageError(
            f"Loader: labels must be int64 {list(source.labels.shape)}, one per row of {source.name}, "
            f"got {labels.dtype} of shape {list(labels.shape)}."
        )


def whole(source: Source, rows: Tensor, labels: Tensor) -> Batch:
    """All these rows in one batch, in this order.

    Args:
        source: Where the samples come from.
        rows: int64 [R], which of them.
        labels: int64 [N], or [N, L] for language, one row per row of the source.
    """
    _check_rows(source, rows, labels)
    inputs, mask = _Reads(source)[rows]
    return Batch(inputs, labels[rows], rows, mask, _meta(source, rows))
