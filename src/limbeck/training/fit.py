"""The loop, on one screen. What differs between runs is passed in, never switched inside."""

import warnings
from collections.abc import Callable, Sequence

from torch import Tensor
from torch.optim import Optimizer

from limbeck.core.batch import Batch
from limbeck.core.checks import positive, whole
from limbeck.core.term import Moment
from limbeck.data.loader import Loader
from limbeck.data.loader import whole as read_whole
from limbeck.distiller import Distiller
from limbeck.engine.engine import Engine
from limbeck.engine.local import LocalEngine
from limbeck.training.advice import advice
from limbeck.training.asked import check_drawn, check_kinds, check_parts, check_step
from limbeck.training.callback import Callback
from limbeck.training.checkpoint import Keeper
from limbeck.training.setting import setting_of
from limbeck.training.steps.student import Student
from limbeck.training.training import Record, Training, Update, of_all


def fit(
    distiller: Distiller,
    loader: Loader,
    optimizer: Optimizer,
    *,
    epochs: int = 1,
    steps: int | None = None,
    queries: Batch | None = None,
    step: Update | None = None,
    engine: Engine | None = None,
    rate: Callable[[int, int], float] = lambda step, steps: 1.0,
    clip: float | None = None,
    accumulate: int = 1,
    seed: int = 0,
    clean: Tensor | None = None,
    callbacks: Sequence[Callback] = (),
    keeper: Keeper | None = None,
) -> Training:
    """Distil: epochs of steps over the loader's batches.

    Args:
        distiller: Student, teacher, objective and weights.
        loader: Training batches.
        optimizer: Of the student's parameters (and the objective's, if it has any).
        epochs: Passes over the loader, >= 1.
        steps: Optimiser steps in all, in place of epochs.
        queries: Samples with trusted labels, for weightings that ask for them.
        step: Who is updated in a step; the student alone where none is named.
        engine: The machine; one process on the CPU where none is named.
        rate: Learning-rate factor by (step, steps in all).
        clip: Largest norm of the student's gradient, > 0.
        accumulate: Parts that each batch is cut into, >= 1: less memory, the same step (batch normalisation sees the parts).
        seed: Decides what weightings draw.
        clean: bool by sample identity, true where the given label is right; for the oracle control.
        callbacks: Look on after steps and epochs.
        keeper: Saves checkpoints, and resumes from one that is there.

    Raises:
        UsageError: An argument is of another kind or out of its range, or the optimiser does not hold all that is to be trained.
        ShapeError: Student, teacher and labels do not fit together.
        RunError: The loss or a parameter became NaN or infinite, or a checkpoint is damaged.
    """
    step, engine = Student() if step is None else step, engine or LocalEngine()
    check_kinds(loader, optimizer, queries, rate, callbacks)
    check_step(step)
    check_drawn(distiller, step)
    check_parts(distiller, optimizer, whole(accumulate, "fit: accumulate"), queries)
    steps = whole(epochs, "fit: epochs") * len(loader) if steps is None else whole(steps, "fit: steps")
    clip = None if clip is None else positive(clip, "fit: clip")
    _try_out(distiller.to(engine.device), loader, engine, step)
    queries = None if queries is None else queries.to(engine.device)
    prepared = engine.prepare(distiller.student)
    training = Training(distiller, prepared, optimizer, engine, rate, steps, accumulate, clip, queries)
    distiller.weighting.bind(setting_of(training, loader, seed, clean, teacher_moves=step.trains_teacher))
    training.student.train()
    step.prepare(training, loader, resumed=keeper is not None and keeper.path.exists())
    if keeper is not None:
        keeper.resume(training, step, callbacks)
    while training.number < steps:
        for batch in loader.epoch(training.number // len(loader), start=training.number % len(loader)):
            distiller.objective.at(Moment(training.number, steps, training.number / len(loader)))
            part = engine.shard(batch)
            record = of_all(step(training, part), batch, part, engine)
            training.number += 1
            ended = training.number % len(loader) == 0 or training.number == steps
            _tell(callbacks, training, record, epoch_ended=ended)
            if keeper is not None:
                keeper.keep(training, step, callbacks, epoch_ended=ended)
            if training.number == steps:
                break
    training.finite()
    for group, base in zip(optimizer.param_groups, training.base_rates, strict=True):
        group["lr"] = base  # the schedule's last value must not be the next fit's first
    return training


def _try_out(distiller: Distiller, loader: Loader, engine: Engine, step: Update) -> None:
    """Run two samples through everything, and say what looks like a mistake."""
    few = read_whole(loader.source, loader.rows[:2], loader.labels).to(engine.device)
    distiller.check(few, loader.labels[loader.rows])
    for sentence in advice(distiller, few, teacher_moves=step.trains_teacher):
        warnings.warn(sentence, stacklevel=3)


def _tell(callbacks: Sequence[Callback], training: Training, record: Record, *, epoch_ended: bool) -> None:
    """Have those who look on see a step, and the end of an epoch."""
    for callback in callbacks:
        callback.after_step(training, record)
        if epoch_ended:
            callback.after_epoch(training)
