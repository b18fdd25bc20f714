"""Influence of every training sample on the student that a run kept: `limbeck score`."""

from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import pyarrow as pa
import torch

from limbeck.experiment import folder as files
from limbeck.experiment.kept import Kept, kept
from limbeck.experiment.processes import by_the_first, together
from limbeck.experiment.progress import Progress, Silent
from limbeck.experiment.removal import check_retraining, query_loss_without
from limbeck.experiment.score_files import RETRAINED, ScoreFiles, columns_of, tile_name
from limbeck.experiment.score_tables import Wanted, groups_of, write
from limbeck.influence.curvature.ekfac import EKFAC
from limbeck.influence.curvature.solver import Solver
from limbeck.influence.explain import measure_removal
from limbeck.influence.matrix import self_influence_of, tile_size, tiles_of
from limbeck.influence.packing import Packing
from limbeck.influence.prepared import Prepared, prepare
from limbeck.influence.scores import Scores, scores_of


@dataclass(frozen=True)
class Scored:
    """What a scoring left behind.

    Args:
        count: Training samples.
        sentence: What removing the worst of them would bring.
        files: By what they hold: scores, matrix, groups, summary.
    """

    count: int
    sentence: str
    files: dict[str, Path]


def score_run(
    folder: Path,
    out: Path,
    solver: Solver | None = None,
    wanted: Wanted | None = None,
    *,
    resume: bool = False,
    replace: bool = False,
    allow_python: bool = False,
    progress: Progress | None = None,
) -> Scored:
    """Score every training sample on the kept student. Killed at any moment and resumed, it ends in the same bytes.

    Started by a launcher, several processes take turns at the training batches; the first one writes.

    Args:
        folder: A finished run.
        out: The table of samples, a .parquet file; further files stand beside it under the same name.
        solver: The inverse; EKFAC() where none is named.
        wanted: What else is asked for.
        resume: Go on with a scoring of the same run, solver and wishes.
        replace: Write over an older scoring.
        allow_python: Let the recipe import the user's own code.
        progress: Told of samples as steps.

    Raises:
        UsageError: The folder is no finished run, a wish cannot be met, or there is a scoring already.
        RunError: The folder is damaged, or the disk is full.
    """
    progress, solver, wanted, home = progress or Silent(), solver or EKFAC(), wanted or Wanted(), ScoreFiles(out)
    run = kept(folder, allow_python=allow_python)
    groups_of(run, wanted.groups)  # refused before work, where there are none
    wanted.removed(len(run.rows))
    if wanted.retrain:
        check_retraining(run)
    fitting = tile_size(run.student, packing=Packing(wanted.keep), samples=len(run.rows))
    size = min(wanted.tile or fitting, len(run.data.queries))
    made_of = _made_of(run, solver, wanted, size)
    with by_the_first(run.engine, home.opened(made_of, resume=resume, replace=replace)):
        first = run.engine.rank == 0
        if not _told(run, [resume and home.finished])[0]:
            count = -(-len(run.data.queries) // size) if wanted.tiles else 0
            _work(run, solver, wanted, home, size, count, progress)
            if first:
                write(run, solver, wanted, home, count, made_of)
        together(run.engine)
    progress.done()
    found = files.read_json(home.summary) if first else {"sentence": ""}
    written = {"scores": home.out, "matrix": home.matrix, "groups": home.groups, "summary": home.summary}
    asked = {"matrix": wanted.matrix, "groups": bool(wanted.groups)}
    return Scored(len(run.rows), str(found["sentence"]), {what: path for what, path in written.items() if asked.get(what, True)})


def _made_of(run: Kept, solver: Solver, wanted: Wanted, size: int) -> dict[str, object]:
    """All that the files follow from."""
    return {
        "run": run.digest,
        "limbeck": version("limbeck"),
        "torch": version("torch"),
        "solver": repr(solver),
        "settings": _settings(solver),
        "matrix": wanted.matrix,
        "self": wanted.own,
        "explain": wanted.explain,
        "groups": wanted.groups,
        "remove": wanted.remove,
        "retrain": wanted.retrain,
        **({"tile": size, "keep": wanted.keep} if wanted.tiles else {}),
    }


def _settings(solver: Solver) -> dict[str, object]:
    """All arguments of a solver, those too that its name leaves out."""

    def plain(value: object) -> object:
        if isinstance(value, Solver):
            return _settings(value)
        return value if value is None or isinstance(value, str | int | float) else repr(value)

    return {name: plain(value) for name, value in vars(solver).items() if not name.startswith("_")}


def _told(run: Kept, answers: list[bool]) -> list[bool]:
    """The first process's answers, for all processes: only it need see the files."""
    every = run.engine.gather(torch.tensor([answers], dtype=torch.int64, device=run.engine.device))
    return [bool(found) for found in every[0].tolist()]


def _work(run: Kept, solver: Solver, wanted: Wanted, home: ScoreFiles, size: int, count: int, progress: Progress) -> None:
    """Compute and keep the parts that are not there yet."""
    names = ["scores", *(["self"] if wanted.own else []), *map(tile_name, range(count)), *(["removal"] if wanted.retrain else [])]
    there = dict(zip(names, _told(run, [home.has(name) for name in names]), strict=True))
    left = [name for name in names if not there[name]]
    progress.start(len(left) + ("removal" in left))  # that takes two trainings
    if any(name != "removal" for name in left):
        _scores(run, solver, wanted, home, size, count, there, progress)
    if "removal" in left:
        _removal(run, wanted, home, progress)


def _removal(run: Kept, wanted: Wanted, home: ScoreFiles, progress: Progress) -> None:
    """Keep what removing the worst samples brings, measured."""
    phi, loss = torch.zeros(len(run.rows)), torch.zeros(1, dtype=torch.float64)
    if run.engine.rank == 0:
        scores = home.part("scores")
        phi, loss = torch.tensor(scores["phi"].to_numpy()), torch.tensor(scores["query_loss"].to_numpy()[:1])
    phi, loss = (run.engine.gather(part.to(run.engine.device))[: len(part)].cpu() for part in (phi, loss))
    trained = query_loss_without(run, home.parts / RETRAINED, progress)
    scores_of_run = Scores(run.rows, phi, float(loss), "")
    found = measure_removal(scores_of_run, wanted.removed(len(phi)), trained, seed=run.data.seed)
    if run.engine.rank == 0:
        home.keep("removal", {"measured": pa.array([found.measured]), "random": pa.array([found.random])})


def _scores(
    run: Kept,
    solver: Solver,
    wanted: Wanted,
    home: ScoreFiles,
    size: int,
    count: int,
    there: dict[str, bool],
    progress: Progress,
) -> None:
    """Compute and keep the scores that are not there yet; the curvature is estimated once for all."""
    alone = [*(["training loss"] if wanted.own else []), *(["query loss"] if count else [])]
    ready = prepare(run.student, run.task, run.train, run.queries, solver, seed=run.data.seed, alone=alone)
    drawn = ready.problem.generator.get_state()
    _kept_parts(run, ready, home, there, progress)

    def next_tile(number: int) -> bool:
        missing = not there[tile_name(number)]
        if missing:
            ready.problem.generator.set_state(drawn)  # a solver that draws draws the same, whichever parts came before
            progress.unit(f"queries {number * size + 1} to {min((number + 1) * size, len(run.data.queries))}", len(run.rows))
        return missing

    if not all(there[tile_name(number)] for number in range(count)):
        asked = tiles_of(ready, size, Packing(wanted.keep), wanted=next_tile, engine=run.engine, on_batch=progress.advance)
        for tile in asked:
            if run.engine.rank == 0:
                home.keep(tile_name(tile.number), columns_of(tile))


def _kept_parts(run: Kept, ready: Prepared, home: ScoreFiles, there: dict[str, bool], progress: Progress) -> None:
    """The scores for the mean query loss, and self-influence, where they are asked for and not there."""
    first, drawn = run.engine.rank == 0, ready.problem.generator.get_state()
    if not there["scores"]:
        progress.unit("scoring", len(run.rows))
        found = scores_of(ready, run.engine, progress.advance)
        if first:
            same = [pa.array([value] * len(found.phi)) for value in (found.query_loss, found.way)]
            home.keep("scores", {"phi": pa.array(found.phi.cpu().numpy()), "query_loss": same[0], "way": same[1]})
    ready.problem.generator.set_state(drawn)
    if not there.get("self", True):
        progress.unit("self-influence", len(run.rows))
        value = self_influence_of(ready, run.engine, progress.advance).value
        if first:
            home.keep("self", {"value": pa.array(value.cpu().numpy())})
