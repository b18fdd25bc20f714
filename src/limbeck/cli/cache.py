"""`limbeck cache`: what the teacher says of every sample, stored."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer


def cache(
    recipe: Annotated[str, typer.Argument(help="A built-in recipe (limbeck list recipes) or a YAML file.", show_default=False)],
    out: Annotated[Path, typer.Option(help="The store's folder.", show_default=False)],
    top_k: Annotated[
        int | None,
        typer.Option(min=1, help="Classes to keep, and the others' mass; all logits if not given.", show_default=False),
    ] = None,
    temperature: Annotated[float, typer.Option(help="At which the kept probabilities are taken, with --top-k.")] = 1.0,
    dtype: Annotated[Literal["float32", "float16"], typer.Option(help="Of what is kept.")] = "float32",
    changes: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a setting; may be given several times.")
    ] = None,
    size: Annotated[str | None, typer.Option(help="smoke, small or full, as the recipe has them.", show_default=False)] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be stored and how large it is; do nothing.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where an earlier start was stopped.")] = False,
    allow_python: Annotated[bool, typer.Option("--allow-python", help="Let the recipe import your own code.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> None:
    """Store what the recipe's teacher says of every sample.

    The teacher of the first seed is trained as `limbeck run` trains it, or read from teacher_weights. Train from the store with
    teacher=Stored("FOLDER").

    \b
      limbeck cache digits --out teacher
      limbeck run digits --set 'teacher=Stored("teacher")'
      limbeck cache my.yaml --out teacher --top-k 64 --dtype float16 --dry-run
    """  # noqa: D301, DOC501  what it raises is no help for a user
    from limbeck.core.checks import positive
    from limbeck.core.errors import UsageError
    from limbeck.experiment.caching import Wanted, plan, spoken_bytes
    from limbeck.experiment.caching import cache as store
    from limbeck.experiment.recipe import load

    if temperature != 1 and top_k is None:
        raise UsageError("cache: logits have no temperature; leave --temperature out, or keep probabilities by --top-k.")
    wanted = Wanted(top_k, positive(temperature, "cache: --temperature"), dtype)
    loaded = load(recipe, size=size, settings=changes or (), allow_python=allow_python)
    typer.echo(plan(loaded, wanted))
    if dry_run:
        return
    from limbeck.cli.progress import progress_for

    with progress_for(sys.stderr, quiet=quiet) as progress:
        made = store(loaded, out, wanted, resume=resume, progress=progress)
    typer.echo(f"stored: {out}, {made.rows:,} samples, {spoken_bytes(made.size_bytes)}; use it as teacher=Stored({str(out)!r})")
