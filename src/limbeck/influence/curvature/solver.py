"""The interface of every inverse, and what an inverse may look at."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol, final, overload

import torch
from torch import Tensor, nn

from limbeck.core.batch import Batch
from limbeck.influence.task import Task
from limbeck.influence.vectors import Vector


@dataclass(frozen=True)
class Problem:
    """What curvature is taken of: a model at its present parameters and mode, a task, and samples of the training set.

    Args:
        model: Called with a batch, answers with `Outputs`.
        task: Its training loss gives the curvature.
        batches: Training samples, read anew for every pass; all means run over all of their samples.
        generator: Draws the labels of the Fisher matrix.
    """

    model: nn.Module
    task: Task
    batches: Sequence[Batch]
    generator: torch.Generator

    @cached_property
    def count(self) -> int:
        """Number of samples in all batches."""
        return sum(len(batch) for batch in self.batches)

    def drawn(self, count: int) -> "Problem":
        """The same problem on samples drawn from its batches, without replacement."""
        everyone = self._everyone
        rows = torch.randperm(len(everyone), generator=self.generator)[:count]
        return replace(self, batches=[everyone.take(rows.to(everyone.index.device))])

    @cached_property
    def _everyone(self) -> Batch:
        """All samples, for who draws again and again."""
        return Batch.concat([*iter(self.batches)])  # of the iterator, which is not asked for its length: that is a pass too


def first_samples(batches: Sequence[Batch], count: int) -> Batch:
    """The first samples, of a batch of several where there is one: a single sample does not show whether samples meet."""
    several = next((batch for batch in batches if len(batch) > 1), None)
    return (next(batch for batch in batches if len(batch)) if several is None else several).take(slice(0, count))


@final
class Later(Sequence[Batch]):
    """One batch that is read when it is first looked at, and kept: many an inverse looks at no sample once it is estimated.

    Args:
        read: Gives the batch.
    """

    def __init__(self, read: Callable[[], Batch]) -> None:
        self.read = read

    @cached_property
    def _batches(self) -> list[Batch]:
        return [self.read()]

    def __len__(self) -> int:
        return 1

    @overload
    def __getitem__(self, place: int) -> Batch: ...
    @overload
    def __getitem__(self, place: slice) -> list[Batch]: ...
    def __getitem__(self, place: int | slice) -> Batch | list[Batch]:
        return self._batches[place]


class Gradients(Protocol):
    """Every sample's gradient of one batch, in the form in which a model's layers give it."""

    @property
    def names(self) -> Sequence[str]:
        """All trained parameters."""

    def whole(self, names: Sequence[str] | None = None) -> Vector:
        """The gradients written out, [B, ...] by parameter name; all parameters, or those named."""

    def factors(self, weight: str, bias: str | None) -> list[tuple[Tensor, Tensor]] | None:
        """Of one layer, for each call, inputs [B, G, T, I] and output gradients [B, G, T, O].

        None where these parameters' gradients are not such products alone: a weight that an embedding shares, for one.
        """


class Solver(ABC):
    """q = (H + damping I)^-1 v. A solver estimates its curvature in `update` and applies the inverse in `solve`."""

    def update(self, problem: Problem, step: int | None = None) -> None:  # noqa: B027 - most solvers keep nothing
        """Estimate the curvature at the model's present parameters.

        Args:
            problem: What it is taken of.
            step: The training step, for solvers that refresh parts of it at their own pace; None renews all.
        """

    def obstacles(self, problem: Problem) -> list[str]:
        """Why the inverse cannot be had of this model, all reasons; asked before any work, with a few samples only."""
        return []

    def wants(self, step: int, most: int) -> int:
        """How many training samples `update` is to read at this step, so that nobody gathers them in vain; 0 for no update.

        Args:
            step: Optimiser steps taken.
            most: Samples that there may be, >= 1.
        """
        return 0

    @abstractmethod
    def solve(self, v: Vector, problem: Problem) -> Vector:
        """The direction q for the gradient v, both by parameter name."""

    def solve_many(self, rows: Vector, problem: Problem) -> Vector:
        """`solve` for K gradients at once, stacked along a first axis; one after the other if nothing better is known."""
        count = len(next(iter(rows.values())))
        each = [self.solve({name: part[k] for name, part in rows.items()}, problem) for k in range(count)]
        return {name: torch.stack([one[name] for one in each]) for name in each[0]}

    def energies(self, gradients: Gradients, problem: Problem) -> Tensor:
        """Every sample's g' (H + damping I)^-1 g, [B]."""
        rows = gradients.whole()
        solved = self.solve_many(rows, problem)
        return torch.stack([(rows[name] * part).flatten(1).sum(1) for name, part in solved.items()]).sum(0)

    def state(self) -> dict[str, Tensor]:
        """All that `solve` needs, for a checkpoint."""
        return {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:  # noqa: B027 - most solvers keep nothing
        """Take back what `state` gave."""
