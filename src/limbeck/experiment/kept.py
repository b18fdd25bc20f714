"""The student that a finished run kept, with all that scoring it takes: data as the run cut it, teacher, terms."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from limbeck.align.taps import Tapped
from limbeck.core.batch import Batch
from limbeck.core.errors import RunError
from limbeck.data.everyone import Everyone
from limbeck.data.validity import check
from limbeck.distiller import Distiller
from limbeck.engine.engine import Engine
from limbeck.experiment import folder as files
from limbeck.experiment.arms import arms_of
from limbeck.experiment.processes import engine_for
from limbeck.experiment.ready import as_teacher
from limbeck.experiment.recipe import Parts, Recipe, load
from limbeck.experiment.seeded import Seeded, loader_for, seeded
from limbeck.experiment.unit import scored
from limbeck.influence.task import Distillation

ROWS = 256
"""Samples in a scored batch; fewer for language, whose logits are many."""


@dataclass(frozen=True)
class Kept:
    """A run's student as it was kept.

    Args:
        recipe: The run's.
        parts: What the recipe names, made.
        data: The data, cut as for the seed that was kept.
        student: On the device, called with a batch.
        teacher: As it was at the end.
        task: The losses by which it was trained and is asked about.
        train: The training samples in the order of `rows`.
        queries: The query set.
        engine: The machine.
        digest: Of the files that a score depends on, hexadecimal.
    """

    recipe: Recipe
    parts: Parts
    data: Seeded
    student: Tapped
    teacher: nn.Module
    task: Distillation
    train: Everyone
    queries: list[Batch]
    engine: Engine
    digest: str

    @property
    def rows(self) -> Tensor:
        """Identities of the training samples, int64 [N]."""
        return self.data.splits.train


def kept(folder: Path, *, allow_python: bool = False) -> Kept:
    """Read a finished run.

    Args:
        folder: What `limbeck run` wrote.
        allow_python: Let the recipe import the user's own code.

    Raises:
        UsageError: The folder is no finished run.
        RunError: The folder is damaged.
    """
    files.check_finished(folder)
    content = files.read_json(folder / files.RESULT)
    recipe = load(folder / files.RECIPE, allow_python=allow_python)
    torch.set_num_threads(recipe.threads)
    parts = recipe.build()
    check(parts.data)
    data = seeded(recipe, parts, int(str(content["kept_seed"])))
    student, teacher = parts.student.build(data.spec), recipe.last_teacher(parts).build(data.spec)
    objective = arms_of(recipe, parts)[-1].objective()
    distiller = Distiller(student, as_teacher(teacher), objective).build(loader_for(recipe, parts, data, data.splits.train))
    try:
        student.load_state_dict(load_file(folder / files.STUDENT))
        if teacher.state_dict():
            teacher.load_state_dict(load_file(folder / files.TEACHER))
        if distiller.objective.state_dict():
            distiller.objective.load_state_dict(load_file(folder / files.OBJECTIVE))
    except Exception as error:
        raise RunError(f"score: the weights in {folder} cannot be read ({type(error).__name__}); run the recipe anew.") from error
    engine = engine_for(recipe)
    for part in (student, teacher, distiller.objective):
        part.to(engine.device)
    train = Everyone(parts.data, data.splits.train, data.labels, most=ROWS, device=engine.device)
    queries = data.queries.to(engine.device).split(-(-len(data.queries) // train.size))
    tapped, task = scored(distiller.objective, student, teacher)
    return Kept(recipe, parts, data, tapped, teacher, task, train, queries, engine, _digest(folder))


def _digest(folder: Path) -> str:
    """SHA-256 of the run's recipe, result and weights."""
    found = hashlib.sha256()
    for name in (files.RECIPE, files.RESULT, files.STUDENT, files.TEACHER, files.OBJECTIVE):
        path = folder / name
        if path.is_file():
            with path.open("rb") as file:
                found.update(hashlib.file_digest(file, "sha256").digest())
        found.update(name.encode())
    return found.hexdigest()
