"""`limbeck report`: the report of a run folder, rendered again."""

from pathlib import Path
from typing import Annotated

import typer


def report(folder: Annotated[Path, typer.Argument(help="The folder that `limbeck run` wrote.", show_default=False)]) -> None:
    """Write report.html into a run folder again; trains nothing.

    \b
      limbeck report runs/digits
    """  # noqa: D301
    from limbeck.report import render

    typer.echo(f"report: {render(folder)}")
