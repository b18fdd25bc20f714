"""What a step works on: the parts of a training run that the loop hands around."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from limbeck.core.batch import Batch
from limbeck.core.errors import RunError
from limbeck.data.loader import Loader
from limbeck.distiller import Distiller
from limbeck.engine.engine import Engine
from limbeck.influence.captured import Capture
from limbeck.influence.pieces import Pieces
from limbeck.influence.ways import Choice


@dataclass(frozen=True)
class Record:
    """What a step leaves behind for logs.

    Args:
        batch: The samples: this process's as a step gives it, those of all processes as callbacks see it.
        loss: The scalar that was minimised.
        terms: Each term's mean before coefficient and weights, by name.
        weights: [B].
        scores: [B] phi, None where weights are not made of scores.
        figures: Further figures by name.
        weighted: What each term adds to the loss: its coefficient, as balanced, times its mean over weighted samples.
    """

    batch: Batch
    loss: float
    terms: dict[str, float]
    weights: Tensor
    scores: Tensor | None = None
    figures: dict[str, float] = field(default_factory=dict)
    weighted: dict[str, float] = field(default_factory=dict)


@dataclass
class Training:
    """The state of one training run.

    Args:
        distiller: Student, teacher, objective and weights.
        student: The student as the engine wrapped it.
        optimizer: Updates the student (and the objective's own parameters).
        engine: The machine.
        rate: Learning-rate factor by (step, steps in all).
        steps: Optimiser steps in all.
        accumulate: Parts that a batch is cut into, so that less memory is needed; the result is that of the whole batch.
        clip: Largest norm of the student's gradient, None for any.
        queries: The query set on the device, None where there is none.
        number: Optimiser steps taken.
        way: How weighted steps get their inner products; None until the first one has chosen.
        capture: What captured steps take their products with.
    """

    distiller: Distiller
    student: nn.Module
    optimizer: Optimizer
    engine: Engine
    rate: Callable[[int, int], float]
    steps: int
    accumulate: int = 1
    clip: float | None = None
    queries: Batch | None = None
    number: int = 0
    way: Choice | None = None
    capture: Capture | None = None

    def __post_init__(self) -> None:
        self._cut = Pieces(self.distiller.student, self.distiller.task().query_loss)
        self.base_rates = [float(group["lr"]) for group in self.optimizer.param_groups]

    @property
    def learning_rate(self) -> float:
        """The student's learning rate at this step."""
        return self.base_rates[0] * self.rate(self.number, self.steps)

    def asked(self, queries: Batch | None = None) -> list[Batch]:
        """The query set, or these of it, in the pieces in which they go through the student; none where there is no query set."""
        queries = self.queries if queries is None else queries
        return [] if queries is None else self._cut(queries)

    def apply(self) -> None:
        """Clip, step, forget the gradients."""
        if self.clip is not None:
            nn.utils.clip_grad_norm_([p for group in self.optimizer.param_groups for p in group["params"]], self.clip)
        for group, base in zip(self.optimizer.param_groups, self.base_rates, strict=True):
            group["lr"] = base * self.rate(self.number, self.steps)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def finite(self) -> None:
        """See that the last steps left numbers behind: a step notices only what the steps before it have done.

        Raises:
            RunError: A parameter is NaN or infinite.
        """
        if not all(bool(torch.isfinite(part).all()) for part in self.distiller.parameters()):
            raise RunError(
                f"training: a parameter became NaN or infinite at step {self.number}; use a smaller learning rate, or clip."
            )


class Update(Protocol):
    """One training step: from a batch to updated parameters.

    Attributes:
        trains_teacher: Whether it updates the teacher.
        writes: Whether it trains on tokens that a model draws, of which it sees that they are what the terms ask for.
    """

    trains_teacher: bool
    writes: bool

    def prepare(self, training: Training, loader: Loader, *, resumed: bool) -> None:
        """Get ready before the first step; `resumed` says that a checkpoint follows, so that long work is not done twice."""

    def __call__(self, training: Training, batch: Batch) -> Record:
        """Take the step; the batch is this process's part, on the device."""

    def state(self) -> dict[str, object]:
        """All that the next step needs beside student, teacher, optimiser and weights."""

    def load_state(self, state: dict[str, object]) -> None:
        """Take back what `state` gave."""


def of_all(record: Record, batch: Batch, part: Batch, engine: Engine) -> Record:
    """The record of the whole batch from those of all processes.

    Args:
        record: Of this process's step.
        batch: The whole batch, as the loader gave it.
        part: What this process's step was given of it; a step may have trained on other samples, or on these changed.
        engine: The machine.
    """
    if engine.processes == 1:
        return record
    seen = record.batch
    other = not (torch.equal(seen.index, part.index) and torch.equal(seen.inputs, part.inputs))
    own = [record.loss, float(other), *record.terms.values(), *record.weighted.values()]
    told = engine.gather(torch.tensor([own], dtype=torch.float64).to(engine.device))
    loss, others, *means = told.mean(0).tolist()
    return replace(
        record,
        batch=seen.map(engine.gather) if others else batch,
        loss=loss,
        terms=dict(zip(record.terms, means, strict=False)),
        weighted=dict(zip(record.weighted, means[len(record.terms) :], strict=True)),
        weights=engine.gather(record.weights),
        scores=None if record.scores is None else engine.gather(record.scores),
    )
