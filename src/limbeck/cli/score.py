"""`limbeck score`: how much each training sample helped or harmed the trained student."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from limbeck.core.errors import UsageError

if TYPE_CHECKING:
    from limbeck.influence.curvature.solver import Solver


def score(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="The folder that `limbeck run` wrote.", show_default=False)],
    solver: Annotated[str, typer.Option(help="How curvature is treated (limbeck list solvers).")] = "EKFAC()",
    out: Annotated[
        Path | None, typer.Option(help="A .parquet file; RUN/scores.parquet if not given.", show_default=False)
    ] = None,
    own: Annotated[bool, typer.Option("--self", help="Self-influence too: what the student had to memorise.")] = False,
    explain: Annotated[
        int, typer.Option(metavar="K", help="For each sample the K queries that it hurts, and helps, most.", show_default=False)
    ] = 0,
    groups: Annotated[
        str, typer.Option(metavar="COLUMN", help="Sums over each label, true_label or domain too.", show_default=False)
    ] = "",
    remove: Annotated[
        str, typer.Option(metavar="K", help="What leaving out the worst K samples (or 5%) would bring.", show_default="5%")
    ] = "",
    retrain: Annotated[
        bool, typer.Option("--retrain", help="Measure it: train again without them, and without as many others.")
    ] = False,
    matrix: Annotated[bool, typer.Option("--matrix", help="Every query against every sample too, in tiles.")] = False,
    tile: Annotated[int | None, typer.Option(help="Queries in a tile; as many as fit if not given.", show_default=False)] = None,
    keep: Annotated[str, typer.Option(help="A tile's directions: full, float16, int8 or rank:R.")] = "full",
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a scoring that was stopped.")] = False,
    replace: Annotated[bool, typer.Option("--replace", help="Write over an older scoring.")] = False,
    allow_python: Annotated[bool, typer.Option("--allow-python", help="Let the recipe import your own code.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> None:
    """Score every training sample's influence on the student.

    A score above 0 means that the sample harms. The table has one row per training sample.

    \b
      limbeck score runs/digits
      limbeck score runs/digits --self --explain 5 --groups label
      limbeck score runs/digits --matrix --solver "ConjugateGradient()" --out harm.parquet
      limbeck score runs/digits --matrix --resume
      limbeck score runs/digits --remove 50 --retrain
    """  # noqa: D301
    _check(folder, resume=resume, replace=replace)
    from limbeck.cli.progress import progress_for
    from limbeck.experiment.score_tables import Wanted
    from limbeck.experiment.scoring import score_run

    wanted = Wanted(matrix, own, explain, groups, tile, keep, remove, retrain)
    first = os.environ.get("RANK", "0") == "0"  # of several processes the first one writes and speaks
    with progress_for(sys.stderr, quiet=quiet or not first) as progress:
        found = score_run(
            folder,
            out or folder / "scores.parquet",
            _solver(solver),
            wanted,
            resume=resume,
            replace=replace,
            allow_python=allow_python,
            progress=progress,
        )
    if first:
        typer.echo("\n".join([found.sentence, *(f"{what}: {path}" for what, path in found.files.items())]))


def _check(folder: Path, *, resume: bool, replace: bool) -> None:
    from limbeck.experiment.folder import check_finished

    check_finished(folder)
    if resume and replace:
        raise UsageError("score: --resume goes on and --replace begins anew; leave one of them out.")


def _solver(text: str) -> "Solver":
    from limbeck import catalogue
    from limbeck.experiment.expressions import Names, parse

    names = Names(
        "solver",
        catalogue.Makers("solvers"),
        hint="`limbeck list solvers` shows all",
        elsewhere={row.name: catalogue.WORDS[row.kind] for row in catalogue.ROWS},
    )
    return cast("Solver", parse(text, names, key="--solver").build())
