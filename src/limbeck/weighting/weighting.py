"""The contract of every weighting: what it is told of a run, what it sees of a step, what it gives back."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from limbeck.core.batch import Batch
from limbeck.influence.task import Task
from limbeck.influence.vectors import Vector


def itself(values: Tensor) -> Tensor:
    """What one process gathers from all: its own values."""
    return values


@dataclass(frozen=True)
class Setting:
    """What a weighting is told before the first step.

    Args:
        student: Called with a batch, answers with `Outputs`.
        task: The loss that the weights act on and the loss that influence is measured on.
        queries: Samples with trusted labels, None where the run has none.
        draw: Gives that many training samples for curvature, drawn with the generator.
        everyone: All training samples in batches, untransformed, in the order of their rows; can be gone through again and again.
        per_epoch: Steps of an epoch, >= 1.
        steps: Steps of the run, >= 1.
        gather: [B] of this process -> the values of all processes, in rank order.
        offset: Gives the place of this process's first sample among the gathered, from its number of samples.
        seed: The run's seed.
        classes: Number of classes, >= 2.
        clean: bool by sample identity, true where the given label is right; None where nobody knows.
        written: Whether the training loss is for what a step has written, and cannot be taken of the samples as they are.
    """

    student: nn.Module
    task: Task
    queries: Batch | None
    draw: Callable[[int, torch.Generator], Batch]
    everyone: Iterable[Batch] = ()
    per_epoch: int = 1
    steps: int = 1
    gather: Callable[[Tensor], Tensor] = itself
    offset: Callable[[int], int] = lambda _: 0
    seed: int = 0
    classes: int = 2
    clean: Tensor | None = None
    written: bool = False

    def own(self, values: Tensor, count: int) -> Tensor:
        """This process's part of gathered values."""
        start = self.offset(count)
        return values[start : start + count]


@dataclass(frozen=True)
class Step:
    """What a weighting sees of a training step.

    Args:
        number: Optimiser steps taken before this one.
        batch: The samples.
        look: Gives each sample's loss, [B], detached; costs the terms once more, and the student too where the batch is cut.
        dot: q -> [B], the inner products of each sample's gradient with q, exact and without per-sample gradients.
        at: Other parameters than the student's own, where weights are asked for (a lookahead); None for its own.
        queried: The gradient of the mean query loss at those, and that loss, where the step has them already.
    """

    number: int
    batch: Batch
    look: Callable[[], Tensor]
    dot: Callable[[Vector], Tensor]
    at: Vector | None = None
    queried: tuple[Vector, float] | None = None

    @cached_property
    def losses(self) -> Tensor:
        """[B], each sample's loss, detached; looked at when it is first asked for."""
        return self.look()

    @property
    def ones(self) -> Tensor:
        """Weight 1 for every sample, [B]."""
        return torch.ones(len(self.batch), device=self.batch.index.device)


class Weighting(ABC):
    """One weight per sample, [B], detached and >= 0.

    Attributes:
        needs_queries: Whether a query set must be there.
        constant: Whether every weight is 1, so that nothing needs to be looked at before the backward pass.
        way: How the step is to get its inner products; `auto` takes the cheapest that is exact.
    """

    needs_queries = False
    constant = False
    way = "auto"

    def bind(self, setting: Setting) -> None:
        """Take note of the run. Called once, before the first step and before `load_state`."""
        self.setting = setting

    def direction(self, number: int) -> Vector | None:
        """The vector that this step's inner products will be asked along, where it is known before the student's forward pass.

        Args:
            number: Optimiser steps taken.
        """
        return None

    @abstractmethod
    def __call__(self, step: Step) -> Tensor:
        """The weights of this step's samples, [B]."""

    def last_scores(self) -> Tensor | None:
        """The scores behind the weights given last, [B]; None where weights are not made of scores."""
        return None

    def schedule(self, epochs: float, *, written: bool = False) -> str:
        """When weights are taken in a run, for plan and report; empty where there is nothing to say.

        Args:
            epochs: Length of the run.
            written: As in `Setting`.
        """
        return ""

    def extra(self, epochs: float, *, written: bool = False) -> float:
        """What the weights take beyond the plain steps of a run, in parts of those; rough, for the plan's time.

        Args:
            epochs: Length of the run.
            written: As in `Setting`.
        """
        return 0.0

    def figures(self) -> dict[str, float]:
        """What to log of the last step beside the weights, such as the query loss."""
        return {}

    def events(self) -> list[str]:
        """Sentences about what went wrong or was changed since the last call; shown in log, result and report."""
        return []

    def state(self) -> dict[str, Tensor]:
        """All that the next step needs, for a checkpoint."""
        return {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:  # noqa: B027 - most weightings keep nothing
        """Take back what `state` gave."""
