"""The mean query gradient with less work: of a query set in parts, one part's gradient is renewed at a time."""

from collections.abc import Callable, Mapping
from typing import final

import torch
from torch import Tensor

from limbeck.core.batch import Batch
from limbeck.core.errors import RunError
from limbeck.influence.vectors import Vector

LEAST = 64
"""Samples of a part, at least: as many as a batch of a training step, whose statistics batch normalisation takes."""


def parts_of(count: int, most: int) -> int:
    """Parts that a query set of that many samples is cut into, at most `most`."""
    return max(1, min(most, count // LEAST))


@final
class InTurn:
    """A stochastic average gradient over the query set: all parts count at all times, each as it was at its last turn.

    A renewal costs the part's share of the whole; the oldest part is as many renewals old as there are others. Parts are spread
    evenly over the set.

    Args:
        parts: Their number, >= 1; 1 takes the whole set anew each time, and keeps nothing.

    Reference: Le Roux, Schmidt, Bach, 2012, arXiv:1202.6258, sec. 1, for the mean. Differs from the paper: parts have their turn
    one after the other, not by chance, and all of them at the first call.
    """

    def __init__(self, parts: int) -> None:
        self.parts = parts
        self.calls, self.count = 0, 0
        self.kept: list[tuple[Vector, float]] = []

    def __call__(self, queries: Batch, of: Callable[[Batch], tuple[Vector, float]]) -> tuple[Vector, float]:
        """The gradient of the mean query loss, and that loss (nats).

        Args:
            queries: The whole set, the same at every call.
            of: The same of some samples, at the student's present parameters.

        Raises:
            RunError: The set has another size than before.
        """
        if self.parts == 1:
            return of(queries)
        if self.kept and self.count != len(queries):
            had = f"had {self.count} samples before, and has {len(queries)} now"
            raise RunError(f"InTurn: the query set {had}; go on with the same one, or begin anew.")
        self.count = len(queries)
        cuts = [queries.take(slice(number, None, self.parts)) for number in range(self.parts)]
        if not self.kept:
            self.kept = [of(cut) for cut in cuts]
        else:
            turn = self.calls % self.parts
            new = of(cuts[turn])
            old = [({name: part.to(new[0][name].device) for name, part in vector.items()}, loss) for vector, loss in self.kept]
            self.kept = [*old[:turn], new, *old[turn + 1 :]]
            self.calls += 1
        shares = [len(cut) / len(queries) for cut in cuts]
        mean = {name: part * shares[0] for name, part in self.kept[0][0].items()}
        for share, (gradient, _) in zip(shares[1:], self.kept[1:], strict=True):
            for name, part in gradient.items():
                mean[name].add_(part, alpha=share)
        return mean, sum(share * loss for share, (_, loss) in zip(shares, self.kept, strict=True))

    def state(self) -> dict[str, Tensor]:
        """Whose turn it is, and the parts' gradients and losses."""
        flat = {f"{number}/{name}": part for number, (vector, _) in enumerate(self.kept) for name, part in vector.items()}
        return flat | {"said": torch.tensor([self.calls, self.count, *(loss for _, loss in self.kept)], dtype=torch.float64)}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `state` gave.

        Raises:
            ValueError: That was of another number of parts.
        """
        calls, count, *losses = state["said"].tolist()
        if losses and len(losses) != self.parts:
            raise ValueError(f"the query set had its turn in {len(losses)} parts before, and has it in {self.parts} now")
        self.calls, self.count = int(calls), int(count)
        vectors = [
            {name.removeprefix(f"{number}/"): part for name, part in state.items() if name.startswith(f"{number}/")}
            for number in range(len(losses))
        ]
        self.kept = list(zip(vectors, losses, strict=True))
