"""What a weighting is told of a run: the samples as they are, and a teacher that need not be asked again what it has said."""

from collections.abc import Iterator
from typing import Any, final

import torch
from torch import Tensor

from limbeck.core.batch import Batch
from limbeck.data.loader import Loader
from limbeck.data.loader import whole as read_whole
from limbeck.distiller import ROWS
from limbeck.teachers.remembered import Remembered
from limbeck.training.training import Training
from limbeck.weighting.weighting import Setting


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

    remembered = None
    if distiller.teacher is not None and not teacher_moves:
        remembered = Remembered(distiller.teacher, torch.split(loader.rows, ROWS), read)
    return Setting(
        student=distiller.student,
        task=distiller.task(remembered),
        queries=training.queries,
        draw=draw,
        everyone=lambda: Everyone(loader, engine.device),
        per_epoch=len(loader),
        steps=training.steps,
        gather=engine.gather,
        offset=lambda count: engine.rank * count,
        seed=seed,
        classes=loader.source.outputs,
        clean=clean,
    )


@final
class Everyone:
    """All samples of a loader as they are, untransformed, in the order of its rows; read anew by whoever goes through them.

    Args:
        loader: Whose samples.
        device: Where they are to be.
    """

    def __init__(self, loader: Loader, device: torch.device) -> None:
        rows, size = loader.rows, min(ROWS, len(loader.rows))
        options: dict[str, Any] = {"shuffle": False, "drop_last": False, "workers": loader.workers}
        self.loader = Loader(loader.source, rows, batch_size=size, seed=0, labels=loader.labels, **options)
        self.device = device

    def __iter__(self) -> Iterator[Batch]:
        """Pieces of `ROWS` samples."""
        return (batch.to(self.device) for batch in self.loader)
