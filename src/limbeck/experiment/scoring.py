"""Influence of every training sample on the student that a run kept: `limbeck score`."""

from pathlib import Path

import torch
from safetensors.torch import load_file

from limbeck.core.errors import RunError, UsageError
from limbeck.data.loader import Loader
from limbeck.data.validity import check
from limbeck.distiller import Distiller
from limbeck.experiment import folder as files
from limbeck.experiment.arms import arms_of
from limbeck.experiment.progress import Progress, Silent
from limbeck.experiment.recipe import load
from limbeck.experiment.unit import loader_for, scored, seeded
from limbeck.influence.curvature.solver import Solver
from limbeck.influence.scores import score
from limbeck.teachers.single import Single


def score_run(
    folder: Path, out: Path, solver: Solver | None = None, *, allow_python: bool = False, progress: Progress | None = None
) -> int:
    """Score every training sample on the kept student and write a parquet file: index, label, true_label, score, rank.

    Args:
        folder: A finished run.
        out: The parquet file to write; one that is there is replaced.
        solver: The inverse; EKFAC() where none is named.
        allow_python: Let the recipe import the user's own code.
        progress: Told of samples as steps.

    Raises:
        UsageError: The folder is no finished run.
        RunError: The folder is damaged.
    """
    progress = progress or Silent()
    if not (folder / files.RESULT).is_file():
        raise UsageError(f"score: {folder} holds no finished run; give the folder that `limbeck run` wrote.")
    content = files.read_json(folder / files.RESULT)
    recipe = load(folder / files.RECIPE, allow_python=allow_python)
    torch.set_num_threads(recipe.threads)
    parts = recipe.build()
    check(parts.data)
    main = arms_of(recipe, parts)[-1]
    data = seeded(recipe, parts, int(str(content["kept_seed"])))
    student, teacher = parts.student.build(data.spec), parts.teacher.build(data.spec)
    distiller = Distiller(student, Single(teacher), main.objective()).build(loader_for(recipe, parts, data, data.splits.train))
    try:
        student.load_state_dict(load_file(folder / files.STUDENT))
        teacher.load_state_dict(load_file(folder / files.TEACHER))
        if distiller.objective.state_dict():
            distiller.objective.load_state_dict(load_file(folder / files.OBJECTIVE))
    except Exception as error:
        raise RunError(f"score: the weights in {folder} cannot be read ({type(error).__name__}); run the recipe anew.") from error
    rows = data.splits.train
    loader = Loader(parts.data, rows, batch_size=256, seed=0, labels=data.labels, shuffle=False, drop_last=False)
    progress.start(1)
    progress.unit("scoring", len(rows))
    tapped, task = scored(distiller.objective, student, teacher)
    found = score(tapped, task, list(loader.epoch(0)), [data.queries], solver, seed=data.seed, on_batch=progress.advance)
    progress.done()
    rank = torch.empty(len(rows), dtype=torch.int64)
    rank[found.phi.argsort(descending=True)] = torch.arange(1, len(rows) + 1)
    truth = parts.data.truth
    files.write_table(
        out,
        {
            "index": found.index.tolist(),
            "label": data.labels[rows].tolist(),
            "true_label": [None] * len(rows) if truth is None else truth[rows].tolist(),
            "score": found.phi.tolist(),
            "rank": rank.tolist(),
        },
    )
    return len(rows)
