"""`limbeck init`: a small project with data, a net and a method of its own, that runs at once."""

import csv
import io
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from limbeck.core.errors import RunError, UsageError


def init(folder: Annotated[Path, typer.Argument(help="A folder that is not there yet, or is empty.")]) -> None:
    """Write a small project: own data, own net, own method, a recipe that uses them, and a test of the method.

    \b
      limbeck init mine
    """  # noqa: D301, DOC501
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"init: {folder} is a file; give a folder that is not there yet.")
    if folder.is_dir() and any(folder.iterdir()):
        raise UsageError(f"init: {folder} is not empty; give a folder that is not there yet.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in contents():
            (folder / name).write_text(content, "utf-8")
    except OSError as error:
        raise RunError(f"init: could not write {folder}: {error.strerror or error}.") from error
    typer.echo(f"{folder} is ready. Next:\n  cd {folder}\n  limbeck run recipe.yaml --allow-python --size smoke")


def contents() -> Iterator[tuple[str, str]]:
    """Names and texts of the project's files."""
    for part in sorted(files("limbeck.cli").joinpath("project").iterdir(), key=lambda part: part.name):
        if part.name.endswith((".txt", ".yaml")):
            yield part.name.removesuffix(".txt"), part.read_text("utf-8")
    yield "flowers.csv", _flowers()


def _flowers() -> str:
    """scikit-learn's iris data as a table."""
    from sklearn.datasets import load_iris

    data, sheet = load_iris(), io.StringIO()
    writer = csv.writer(sheet, lineterminator="\n")
    writer.writerow(["sepal length", "sepal width", "petal length", "petal width", "species"])
    writer.writerows([*row, label] for row, label in zip(data.data.tolist(), data.target.tolist(), strict=True))
    return sheet.getvalue()
