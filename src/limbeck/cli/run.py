"""`limbeck run`: a recipe from the data to the report."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from limbeck.core.errors import RunError, UsageError

if TYPE_CHECKING:
    from limbeck.experiment.recipe import Recipe

HOME = Path("runs")


def run(
    recipe: Annotated[
        str | None, typer.Argument(help="A built-in recipe (limbeck list recipes) or a YAML file.", show_default=False)
    ] = None,
    changes: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a setting; may be given several times.")
    ] = None,
    seeds: Annotated[int | None, typer.Option(help="How often all is repeated.", show_default=False)] = None,
    size: Annotated[str | None, typer.Option(help="smoke, small or full, as the recipe has them.", show_default=False)] = None,
    out: Annotated[Path | None, typer.Option(help="The run's folder; runs/NAME if not given.", show_default=False)] = None,
    resume: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Go on with a run that was stopped.", show_default=False)
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Remove an older run in the same folder first.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check all and estimate memory and time; train nothing.")] = False,
    allow_python: Annotated[bool, typer.Option("--allow-python", help="Let the recipe import your own code.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> None:
    """Train, compare and report all that a recipe says.

    Trains the teacher, the baselines and the weighted student, several seeds each, and writes the run's folder.

    \b
      limbeck run digits
      limbeck run my.yaml --set epochs=10 --set "objective=KD(T=2) + CE()" --dry-run
      limbeck run --resume runs/digits
    """  # noqa: D301
    _check(recipe, resume, others=bool(changes or out or replace or size or seeds is not None))
    if resume is not None:
        _carry_out(_of_folder(resume, allow_python), resume, resume=True, replace=False, quiet=quiet, dry=dry_run)
        return
    from limbeck.experiment.recipe import load

    loaded = load(str(recipe), size=size, settings=changes or (), seeds=seeds, allow_python=allow_python)
    _carry_out(loaded, out or free_folder(loaded.name), resume=False, replace=replace, quiet=quiet, dry=dry_run)


def _check(recipe: str | None, resume: Path | None, *, others: bool) -> None:
    if resume is None and recipe is None:
        raise UsageError("run: give a recipe, such as `limbeck run digits`, or a folder by --resume.")
    if resume is not None and (recipe is not None or others):
        raise UsageError("--resume goes on with the folder's own recipe and settings; leave the others out.")


def free_folder(name: str) -> Path:
    """runs/NAME, or runs/NAME-2 and so on where that is taken."""
    folder, number = HOME / name, 1
    while folder.exists():
        number += 1
        folder = HOME / f"{name}-{number}"
    return folder


def _of_folder(folder: Path, allow_python: bool) -> "Recipe":
    from limbeck.experiment.recipe import load

    file = folder / "recipe.yaml"
    if not file.is_file():
        raise UsageError(f"--resume: {folder} is no run folder, it has no recipe.yaml; give the folder that `limbeck run` wrote.")
    return load(file, allow_python=allow_python)


def _carry_out(recipe: "Recipe", folder: Path, *, resume: bool, replace: bool, quiet: bool, dry: bool) -> None:
    from limbeck.experiment import run as experiment

    if dry:
        typer.echo(experiment.dry_run(recipe))
        return
    from limbeck.cli.progress import progress_for
    from limbeck.report import render
    from limbeck.report.reading import read_run

    first = os.environ.get("RANK", "0") == "0"  # of several processes the first one writes and speaks
    try:
        with progress_for(sys.stderr, quiet=quiet or not first) as progress:
            experiment.run(recipe, folder, resume=resume, replace=replace, progress=progress)
    except KeyboardInterrupt:
        raise RunError(_stopped(recipe, folder)) from None
    if not first:
        return
    page = render(folder)
    verdict = read_run(folder).result.verdict
    if verdict is not None:
        typer.echo(verdict.sentence)
    typer.echo(f"report: {page}")


def _stopped(recipe: "Recipe", folder: Path) -> str:
    """What to do after Ctrl-C. A folder that was not opened yet may hold an older run, which is not this one."""
    file = folder / "recipe.yaml"
    if file.is_file() and file.read_text("utf-8") == recipe.resolved():
        return f"stopped; go on with `limbeck run --resume {folder}`."
    return "stopped before the run began; nothing was written."
