"""A whole run: every seed's teacher, the rivals and the method, then what they say. Reads a recipe, writes a folder."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from limbeck.data.validity import check
from limbeck.engine.accelerate import AccelerateEngine
from limbeck.engine.engine import Engine
from limbeck.engine.local import LocalEngine
from limbeck.experiment import folder as files
from limbeck.experiment import outcome
from limbeck.experiment.arms import arms_of
from limbeck.experiment.outcome import Done
from limbeck.experiment.plan import Plan, plan
from limbeck.experiment.progress import Progress, Silent
from limbeck.experiment.recipe import Recipe
from limbeck.experiment.unit import Worker, seeded
from limbeck.training.checkpoint import write_whole


@dataclass(frozen=True)
class Result:
    """What a run found.

    Args:
        folder: Where all of it stands.
        content: As in result.json.
    """

    folder: Path
    content: dict[str, Any]

    @property
    def sentence(self) -> str:
        """The verdict."""
        found: str = self.content["verdict"]["sentence"]
        return found


def engine_for(recipe: Recipe) -> Engine:
    """The machine that a recipe asks for; several processes where it was started by a launcher."""
    import os

    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return AccelerateEngine(recipe.precision, cpu=recipe.device == "cpu")
    return LocalEngine(recipe.device, recipe.precision)


def run(recipe: Recipe, folder: Path, *, resume: bool = False, replace: bool = False, progress: Progress | None = None) -> Result:
    """Run a recipe. Killed at any moment and resumed, it ends in the same bytes (timings.json and environment.json aside).

    Args:
        recipe: What to run.
        folder: Where to write; must not hold a run unless `resume` or `replace`.
        resume: Go on where an earlier start of the same recipe in this folder was stopped.
        replace: Remove an older run in the folder first.
        progress: Told of every unit and step.

    Raises:
        UsageError: The recipe, its data or the folder cannot be taken.
        RunError: The run failed: NaN, a full disk, a damaged checkpoint.
    """
    progress = progress or Silent()
    torch.set_num_threads(recipe.threads)
    parts = recipe.build()
    check(parts.data)
    arms = arms_of(recipe, parts)
    seeds = [recipe.seed + number for number in range(recipe.seeds)]
    sets = [seeded(recipe, parts, seed) for seed in seeds]
    for architecture in (parts.teacher, parts.student):
        architecture.build(sets[0].spec)
    engine = engine_for(recipe)
    if engine.rank == 0:
        files.open_folder(folder, resume=resume, replace=replace)
        write_whole(folder / files.RECIPE, recipe.resolved().encode())
        if not (folder / files.ENVIRONMENT).exists():
            files.write_json(folder / files.ENVIRONMENT, files.environment())
    worker = Worker(recipe, parts, engine, folder / files.CHECKPOINTS, progress)
    progress.start(len(seeds) * (len(arms) + 1))
    done = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # what weightings warn of is kept as events and shown in the report
        for data in sets:
            teacher = worker.teacher(data)
            students = {arm.name: worker.student(arm, data, teacher.model) for arm in arms}
            done.append(Done(data, teacher, students))
    table = outcome.samples(parts, arms[-1], done)
    content = outcome.result(recipe, parts, arms, done, table)
    if engine.rank == 0:
        _write(recipe, parts.data, folder, done, content, table)
        files.write_json(folder / files.TIMINGS, outcome.timings(done, arms))
        _tidy(folder / files.CHECKPOINTS)
    progress.done()
    return Result(folder, content)


def _write(
    recipe: Recipe, source: Any, folder: Path, done: list[Done], content: dict[str, Any], table: dict[str, list[Any]]
) -> None:
    """All files of a finished run; result.json last, since it says that the run is done."""
    main = content["main"]
    kept = done[outcome.kept_seed(done, main)]
    rows = [row for one in done for unit in [one.teacher, *one.students.values()] for row in unit.rows]
    files.write_lines(folder / files.METRICS, rows)
    files.write_table(folder / files.SAMPLES, table)
    files.write_json(folder / files.GALLERY, outcome.gallery(source, table))
    files.write_model(folder / files.STUDENT, kept.students[main].model)
    files.write_model(folder / files.TEACHER, kept.teacher.model)
    write_whole(folder / files.CARD, outcome.card(recipe, content).encode())
    files.write_json(folder / files.RESULT, content)


def _tidy(home: Path) -> None:
    """Remove what only a resumed run needs."""
    import shutil

    shutil.rmtree(home, ignore_errors=True)


def dry_run(recipe: Recipe) -> Plan:
    """What a run of the recipe would do and about what it would cost; trains and writes nothing."""
    torch.set_num_threads(recipe.threads)
    parts = recipe.build()
    check(parts.data)
    arms = arms_of(recipe, parts)
    data = seeded(recipe, parts, recipe.seed)
    return plan(recipe, parts, arms, data)
