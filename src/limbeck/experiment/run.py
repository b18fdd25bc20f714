"""A whole run: every seed's teacher, the rivals and the method, then what they say. Reads a recipe, writes a folder."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from limbeck.data.source import Source
from limbeck.data.validity import check
from limbeck.experiment import folder as files
from limbeck.experiment import outcome
from limbeck.experiment.arms import Arm, arms_of
from limbeck.experiment.outcome import Done
from limbeck.experiment.plan import Plan, plan
from limbeck.experiment.processes import by_the_first, engine_for, together
from limbeck.experiment.progress import Progress, Silent
from limbeck.experiment.recipe import Parts, Recipe
from limbeck.experiment.rehearsal import rehearse
from limbeck.experiment.seeded import Seeded, seeded
from limbeck.experiment.unit import Worker
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
    parts, arms = _made(recipe)
    sets = [seeded(recipe, parts, recipe.seed + number) for number in range(recipe.seeds)]
    engine = engine_for(recipe)
    rehearse(recipe, parts, arms, sets, engine)
    with by_the_first(engine, files.opened(folder, recipe.resolved(), resume=resume, replace=replace)):
        if resume and (folder / files.RESULT).exists():
            content: dict[str, Any] = files.read_json(folder / files.RESULT)
        else:
            worker = Worker(recipe, parts, engine, folder / files.CHECKPOINTS, progress)
            progress.start(len(sets) * worker.units(arms))
            done = _train(worker, arms, sets)
            table = outcome.samples(parts, arms[-1], done)
            content = outcome.result(recipe, parts, arms, done, table)
            if engine.rank == 0:
                _write(recipe, parts.data, folder, arms, done, content, table)
        if engine.rank == 0:
            files.tidy(folder)
        together(engine)
    progress.done()
    return Result(folder, content)


def _made(recipe: Recipe) -> tuple[Parts, list[Arm]]:
    """What the recipe names, with its data read and looked at."""
    torch.set_num_threads(recipe.threads)
    parts = recipe.build()
    check(parts.data)
    return parts, arms_of(recipe, parts)


def _train(worker: Worker, arms: list[Arm], sets: list[Seeded]) -> list[Done]:
    """Every unit of every seed."""
    done = []
    for data in sets:
        teacher = worker.teacher(data)
        assistants = worker.assistants(data, teacher.model)
        guide = assistants[-1] if assistants else teacher
        students = {arm.name: worker.student(arm, data, guide.model) for arm in arms}
        done.append(Done(data, teacher, assistants, students))
    return done


def _write(
    recipe: Recipe,
    source: Source,
    folder: Path,
    arms: list[Arm],
    done: list[Done],
    content: dict[str, Any],
    table: dict[str, list[Any]],
) -> None:
    """All files of a finished run; result.json last, since it says that the run is done."""
    main = content["main"]
    kept = done[outcome.kept_seed(done, main)]
    rows = [row for one in done for unit in [one.teacher, *one.assistants, *one.students.values()] for row in unit.rows]
    files.write_lines(folder / files.METRICS, rows)
    files.write_table(folder / files.SAMPLES, table)
    files.write_json(folder / files.GALLERY, outcome.gallery(source, table))
    student = kept.students[main]
    files.write_model(folder / files.STUDENT, student.model)
    if kept.guide(main).state_dict():  # what is stored or served has no weights here
        files.write_model(folder / files.TEACHER, kept.guide(main))
    if student.objective is not None and student.objective.state_dict():
        files.write_model(folder / files.OBJECTIVE, student.objective)
    write_whole(folder / files.CARD, outcome.card(recipe, content).encode())
    files.write_json(folder / files.TIMINGS, outcome.timings(done, arms))
    files.write_json(folder / files.RESULT, content)


def dry_run(recipe: Recipe) -> Plan:
    """What a run of the recipe would do and about what it would cost; trains and writes nothing."""
    parts, arms = _made(recipe)
    data = seeded(recipe, parts, recipe.seed)
    rehearse(recipe, parts, arms, [data], engine_for(recipe))
    return plan(recipe, parts, arms, data)
