"""The interface of every inverse, and what an inverse may look at."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

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
        batches: Training samples; all means run over all of their samples.
        generator: Draws the labels of the Fisher matrix.
    """

    model: nn.Module
    task: Task
    batches: Sequence[Batch]
    generator: torch.Generator

    @property
    def count(self) -> int:
        """Number of samples in all batches."""
        return sum(len(batch) for batch in self.batches)

    def drawn(self, count: int) -> "Problem":
        """The same problem on samples drawn from its batches, without replacement."""
        everyone = Batch.concat(self.batches)
        rows = torch.randperm(len(everyone), generator=self.generator)[:count]
        return replace(self, batches=[everyone.take(rows.to(everyone.index.device))])


class Solver(ABC):
    """q = (H + damping I)^-1 v. A solver estimates its curvature in `update` and applies the inverse in `solve`."""

    def update(self, problem: Problem, step: int | None = None) -> None:  # noqa: B027 - most solvers keep nothing
        """Estimate the curvature at the model's present parameters.

        Args:
            problem: What it is taken of.
            step: The training step, for solvers that refresh parts of it at their own pace; None renews all.
        """

    def due(self, step: int) -> bool:
        """Whether `update` would do anything at this step, so that nobody gathers samples in vain."""
        return False

    @abstractmethod
    def solve(self, v: Vector, problem: Problem) -> Vector:
        """The direction q for the gradient v, both by parameter name."""

    def state(self) -> dict[str, Tensor]:
        """All that `solve` needs, for a checkpoint."""
        return {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:  # noqa: B027 - most solvers keep nothing
        """Take back what `state` gave."""
