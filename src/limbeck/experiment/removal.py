"""What removing the worst samples of a scored run brings, measured: its student is trained again without them."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from limbeck.core.errors import UsageError
from limbeck.experiment.arms import arms_of
from limbeck.experiment.kept import Kept
from limbeck.experiment.progress import Progress
from limbeck.experiment.unit import Worker, scored
from limbeck.influence.restoring import evaluating


def check_retraining(run: Kept) -> None:
    """See that the student can be trained as the run trained it.

    Raises:
        UsageError: The teacher that it began with was not kept.
    """
    arm = arms_of(run.recipe, run.parts)[-1]
    generations = run.recipe.generations > 1 and "teacher" in arm.objective().needs
    if generations or arm.step().trains_teacher:
        raise UsageError(
            "score: --retrain: the run's teacher changed while it was trained, and the one that it began with was not kept; "
            "leave --retrain out."
        )


def query_loss_without(run: Kept, home: Path, progress: Progress) -> Callable[[Tensor], float]:
    """A function that trains the run's student again without samples, and gives the new one's mean query loss (nats).

    First weights, order of samples, epochs and teacher are the run's own; the teacher has seen the samples. What is finished or
    begun stays under `home`, so that a training that was stopped goes on.

    Args:
        run: The run, as it was kept.
        home: A folder for the trainings.
        progress: Told of their steps.
    """

    def loss(index: Tensor) -> float:
        rows = run.rows[~torch.isin(run.rows, index)]
        own = home / hashlib.sha256(index.sort().values.numpy().tobytes()).hexdigest()[:10]
        own.mkdir(parents=True, exist_ok=True)
        data = replace(run.data, splits=replace(run.data.splits, train=rows))
        unit = Worker(run.recipe, run.parts, run.engine, own, progress).student(
            arms_of(run.recipe, run.parts)[-1], data, run.teacher.cpu()
        )
        assert unit.objective is not None
        for part in (unit.model, unit.objective, run.teacher):
            part.to(run.engine.device)
        student, task = scored(unit.objective, unit.model, run.teacher)
        with evaluating(student), torch.no_grad():
            return float(torch.cat([task.query_loss(student, batch) for batch in run.queries]).double().mean())

    return loss
