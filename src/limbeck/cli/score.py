"""`limbeck score`: how much each training sample helped or harmed the trained student."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from limbeck.core.errors import RunError, UsageError

if TYPE_CHECKING:
    from limbeck.influence.curvature.solver import Solver


def score(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="The folder that `limbeck run` wrote.", show_default=False)],
    solver: Annotated[str, typer.Option(help="How curvature is treated (limbeck list solvers).")] = "EKFAC()",
    out: Annotated[
        Path | None, typer.Option(help="A .parquet file; RUN/scores.parquet if not given.", show_default=False)
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Write over a file that is there.")] = False,
    allow_python: Annotated[bool, typer.Option("--allow-python", help="Let the recipe import your own code.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> None:
    """Score every training sample's influence on the student.

    A score above 0 means that the sample harms. The table has one row per training sample.

    \b
      limbeck score runs/digits
      limbeck score runs/digits --solver "ConjugateGradient()" --out harm.parquet
    """  # noqa: D301
    target = _target(folder, out, replace=replace)
    from limbeck import catalogue
    from limbeck.cli.progress import progress_for
    from limbeck.experiment.expressions import Names, parse
    from limbeck.experiment.scoring import score_run

    names = Names(
        "solver",
        catalogue.Makers("solvers"),
        hint="`limbeck list solvers` shows all",
        elsewhere={row.name: catalogue.WORDS[row.kind] for row in catalogue.ROWS},
    )
    inverse = cast("Solver", parse(solver, names, key="--solver").build())
    with progress_for(sys.stderr, quiet=quiet) as progress:
        score_run(folder, target, inverse, allow_python=allow_python, progress=progress)
    typer.echo(f"scores: {target}")


def _target(folder: Path, out: Path | None, *, replace: bool) -> Path:
    if not (folder / "result.json").is_file():
        raise UsageError(f"score: {folder} is no finished run folder; make one with `limbeck run`, such as `limbeck run digits`.")
    target = out or folder / "scores.parquet"
    if target.suffix != ".parquet":
        raise UsageError(f"score: --out must end in .parquet, got {target}.")
    if target.exists() and not replace:
        raise RunError(f"score: {target} exists; give another --out, or --replace to write over it.")
    return target
