"""Draws samples by their domain, in shares that may change while a run goes on. Knows nothing of losses."""

from collections.abc import Mapping
from typing import final

import torch
from torch import Tensor

from limbeck.core.checks import whole
from limbeck.core.errors import DataError
from limbeck.data.seeding import generator_for, seed_of
from limbeck.data.source import Source

STREAM = 0xD0_0000
"""Keeps the numbers drawn here apart from those of the loader, which has the same seed: no epoch has this number."""

UNUSED = (
    "where all terms need labels the others are not trained on: add a term that needs none, such as KD(), or leave mixture out"
)
"""What to do where there are rows with a label and without, and one of the two is not drawn from."""


@final
class Domains:
    """Each sample's domain is drawn by the shares; of the domain comes the next row of its stream.

    A stream is all training rows of a domain in random order, then all again in another order, and so on. What is drawn
    depends on (seed, stretch), the shares, and how far the streams were before the stretch: nothing else is to be kept.

    Args:
        source: A source with domains, or with rows of which some have a label: those, and those without, are then two domains.
        rows: int64 [R], the rows to draw from; every domain has some.
        seed: Decides all draws.
        every: Batches that are drawn with the same shares, a stretch, >= 1.

    Raises:
        DataError: The source has no domains, or one has none of the rows.

    Attributes:
        names: Of the G domains.
        sizes: int64 [G], how many of the rows each has.
        shares: float64 [G], chance of each at every draw; equal ones until `begin`.
    """

    def __init__(self, source: Source, rows: Tensor, *, seed: int, every: int) -> None:
        if source.drawn_by is None:
            raise DataError(f"{source.name}: a mixture is of domains, but there are none; name their column with group=...")
        groups, self.names = source.drawn_by
        self.seed, self.every = seed_of(seed, "Domains"), whole(every, "Domains: every")
        self.streams = [rows[groups[rows] == number] for number in range(len(self.names))]
        self.sizes = torch.tensor([len(stream) for stream in self.streams])
        if not bool(self.sizes.all()):
            name = self.names[int((self.sizes == 0).nonzero()[0])]
            do = "leave it out, or add rows" if source.groups is not None else UNUSED
            raise DataError(f"{source.name}: domain '{name}' has no training row to draw; {do}.")
        self.begin(torch.full((len(self.names),), 1 / len(self.names), dtype=torch.float64))

    def begin(self, shares: Tensor) -> None:
        """Begin all streams, with these shares."""
        self.shares, self.passed, self.behind = shares, torch.zeros_like(self.sizes), 0

    def draw(self, stretch: int, count: int) -> Tensor:
        """The rows of a stretch, int64 [count]: the `every` batches from number stretch * every on.

        Where nobody has turned behind the stretches before it, the shares stay as they are.
        """
        if stretch < self.behind:  # another run
            self.begin(self.shares)
        while self.behind < stretch:
            self.turn(self.behind, count, self.shares)
        domains = self._domains(stretch, count)
        drawn = torch.empty(count, dtype=torch.int64)
        for number, stream in enumerate(self.streams):
            own = domains == number
            first = int(self.passed[number])
            places = first + torch.arange(int(own.sum()))
            turns = range(first // len(stream), (first + len(places)) // len(stream) + 1)
            orders = [torch.randperm(len(stream), generator=generator_for(self.seed, STREAM, 1, number, turn)) for turn in turns]
            drawn[own] = stream[torch.cat(orders)[places - turns[0] * len(stream)]]
        return drawn

    def turn(self, stretch: int, count: int, shares: Tensor) -> None:
        """Go on behind a stretch of `count` rows, with these shares from now on."""
        self.passed = self.passed + torch.bincount(self._domains(stretch, count), minlength=len(self.names))
        self.shares, self.behind = shares, stretch + 1

    def state(self) -> dict[str, Tensor]:
        """The shares, how far each stream is, and how many stretches lie behind."""
        return {"shares": self.shares, "passed": self.passed, "behind": torch.tensor(self.behind)}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `state` gave."""
        self.shares, self.passed, self.behind = state["shares"], state["passed"], int(state["behind"])

    def _domains(self, stretch: int, count: int) -> Tensor:
        generator = generator_for(self.seed, STREAM, 0, stretch)
        return torch.multinomial(self.shares, count, replacement=True, generator=generator)
