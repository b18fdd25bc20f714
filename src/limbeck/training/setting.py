"""What a weighting is told of a run: the samples as they are, and a teacher that need not be asked again what it has said."""

import torch
from torch import Tensor

from limbeck.core.batch import Batch
from limbeck.data.everyone import Everyone
from limbeck.data.loader import Loader
from limbeck.data.loader import whole as read_whole
from limbeck.distiller import ROWS
from limbeck.teachers.remembered import Remembered
from limbeck.training.training import Training
from limbeck.weighting.weighting import Setting

FOLD = 8
"""Samples that are scored together, in samples that a step takes at a time: a pass without a graph keeps little of each."""


def setting_of(training: Training, loader: Loader, seed: int, clean: Tensor | None, *, teacher_moves: bool) -> Setting:
    """What the weighting is told of the run.

    Args:
        training: The run.
        loader: Its training batches.
        seed: Decides what the weighting draws.
        clean: bool by sample identity; None where nobody knows.
        teacher_moves: Whether the run's step updates the teacher, whose answers are then never kept.
    """
    engine, distiller = training.engine, training.distiller

    def read(rows: Tensor) -> Batch:
        return read_whole(loader.source, rows, loader.labels).to(engine.device)

    def draw(count: int, generator: torch.Generator) -> Batch:
        return read(loader.rows[torch.randperm(len(loader.rows), generator=generator)[:count]])

    least = max(loader.batch_size // (training.accumulate * engine.processes), 1)  # as many as a step takes at a time
    most, device = min(ROWS, FOLD * least), engine.device
    everyone = Everyone(loader.source, loader.rows, loader.labels, most=most, least=least, device=device, workers=loader.workers)
    remembered = None
    if distiller.teacher is not None and not teacher_moves:
        remembered = Remembered(distiller.teacher, torch.split(loader.rows, everyone.size), read)
    return Setting(
        student=distiller.student,
        task=distiller.task(remembered),
        queries=training.queries,
        draw=draw,
        everyone=everyone,
        per_epoch=len(loader),
        steps=training.steps,
        gather=engine.gather,
        offset=lambda count: engine.rank * count,
        seed=seed,
        classes=loader.source.outputs,
        clean=clean,
        written=distiller.objective.written,
    )
