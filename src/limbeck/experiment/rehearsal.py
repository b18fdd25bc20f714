"""Puts a run together once, before anything is written: what does not fit is said before work is lost."""

import warnings
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from limbeck.core.errors import UsageError
from limbeck.data.loader import whole
from limbeck.distiller import Distiller
from limbeck.engine.engine import Engine
from limbeck.experiment.arms import Arm, assistant, labels_only
from limbeck.experiment.progress import Silent
from limbeck.experiment.ready import as_teacher
from limbeck.experiment.recipe import Parts, Recipe
from limbeck.experiment.seeded import Seeded, given_teacher, loader_for
from limbeck.experiment.unit import Worker
from limbeck.teachers.store import spread
from limbeck.teachers.stored import Stored
from limbeck.training.fit import fit
from limbeck.training.steps.offline import Offline
from limbeck.training.steps.student import Student


def rehearse(recipe: Recipe, parts: Parts, arms: list[Arm], sets: list[Seeded], engine: Engine) -> None:
    """Build every net and take one step of every arm, on nets that are thrown away; in chains, of every link too.

    Raises:
        UsageError: A part does not fit the others, or a batch or the completions are more than the data has.
    """
    worker = Worker(recipe, parts, engine, Path(), Silent())
    _check_sizes(worker, arms, sets)
    spec = sets[0].spec
    teacher = parts.teacher.build(spec) if parts.teacher_weights is None else given_teacher(parts, spec)
    if isinstance(teacher, Stored):
        teacher.check(whole(parts.data, spread(len(parts.data)), parts.data.labels))
    steps = worker.steps(sets[0])
    for number, net in enumerate(parts.assistants, start=1):
        _try_step(recipe, replace(parts, student=net), assistant(recipe, parts, number), sets[0], teacher, engine)
        teacher = net.build(spec)
    for arm in arms:
        average = arm.average()
        if average is not None:
            average.begin(steps, sets[0].validation)
        _try_step(recipe, parts, arm, sets[0], teacher, engine)
    if recipe.generations > 1:
        _try_step(recipe, parts, arms[-1], sets[0], recipe.last_teacher(parts).build(spec), engine)


def _check_sizes(worker: Worker, arms: list[Arm], sets: list[Seeded]) -> None:
    """See that batches and completions are no more than there is.

    Raises:
        UsageError: They are, or a batch does not divide among the processes.
    """
    recipe, processes = worker.recipe, worker.engine.processes
    if recipe.batch_size % processes:
        raise UsageError(f"batch_size: {recipe.batch_size} samples do not divide among {processes} processes; choose a multiple.")
    counts = min((data.splits.counts for data in sets), key=lambda counts: counts["train"])
    if recipe.batch_size > counts["train"]:
        rest = ", ".join(f"{part} {size}" for part, size in counts.items() if part != "train")
        raise UsageError(
            f"batch_size: {recipe.batch_size} is more than the {counts['train']} training samples that are left beside {rest}; "
            "choose a smaller one, or smaller parts."
        )
    objectives = [*(arm.objective() for arm in arms), *([labels_only(worker.parts.data)] if worker.teachers else [])]
    fewest = min(len(data.of_use(objective, data.splits.train)) for data in sets for objective in objectives)
    if recipe.batch_size > fewest:
        raise UsageError(
            f"batch_size: {recipe.batch_size} is more than the {fewest} training samples that have a label, which is all that "
            "the teacher, or an arm of terms that need labels, is trained on; choose a smaller one."
        )
    tested = len(sets[0].test)
    if recipe.completions > tested:
        raise UsageError(f"completions: {recipe.completions} is more than the {tested} test rows; choose {tested} or fewer.")


def _try_step(recipe: Recipe, parts: Parts, arm: Arm, data: Seeded, teacher: nn.Module, engine: Engine) -> None:
    """One step of an arm: what its weights or its step refuse, they refuse here."""
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        step = arm.step()
        model, guide = parts.student.build(data.spec), as_teacher(deepcopy(teacher), trained=step.trains_teacher)
        weighting, balancer, per, objective = arm.weighting(), arm.balancer(), recipe.per, arm.objective()
        loader = loader_for(recipe, parts, data, data.of_use(objective, data.splits.train), arm.mixture())
        distiller = Distiller(model, guide, objective, weighting=weighting, balancer=balancer, per=per).build(loader)
        fit(
            distiller,
            loader,
            parts.optimizer.build(distiller.trained()),
            steps=1,
            queries=data.queries,
            step=arm.mixing(Student() if isinstance(step, Offline) else step),
            engine=engine,
            accumulate=recipe.accumulate,
            seed=data.seed,
            clean=data.clean,
        )
