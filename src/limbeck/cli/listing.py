"""`limbeck list`: all that a recipe can name."""

import json
import shutil
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from limbeck import catalogue
from limbeck.core.errors import UsageError, nearest

KINDS = (*catalogue.kinds(), "methods", "recipes")
Line = dict[str, str]


def list_rows(
    what: Annotated[str | None, typer.Argument(help=f"{', '.join(KINDS)}; or one name.", show_default=False)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, with every column.")] = False,
) -> None:
    """Show all that a recipe can name.

    \b
      limbeck list                 the kinds
      limbeck list terms           one kind
      limbeck list KD              one name and its arguments
      limbeck list digits          a recipe that comes with the package, to copy
    """  # noqa: D301
    if what is not None and what not in KINDS:
        typer.echo(_recipe(what) or "\n\n".join(map(described, _named(what))))
        return
    lines = lines_of(what) if what else [{"name": kind, "summary": f"{len(lines_of(kind))} of them"} for kind in KINDS]
    typer.echo(json.dumps(lines, indent=2) if as_json else table(lines, _width()))


def _recipe(name: str) -> str | None:
    """The text of a built-in recipe."""
    from limbeck.experiment.recipe_text import built_in

    text = built_in().get(name)
    return text if text is None else text.rstrip("\n")


def _named(name: str) -> list[catalogue.Row]:
    found = [row for row in catalogue.everything() if row.name == name]
    if not found:
        near = nearest(name, [*KINDS, *(row.name for row in catalogue.everything())])
        others = f"; it takes {', '.join(KINDS)}, or a name."
        raise UsageError(f"list: there is no '{name}'{near or others}")
    return found


def lines_of(kind: str) -> list[Line]:
    """Every entry of a kind, with all its columns."""
    if kind == "recipes":
        from limbeck.experiment.recipe_text import built_in, summary_of

        return [{"name": name, "summary": summary_of(text)} for name, text in built_in().items()]
    wanted = catalogue.METHODS if kind == "methods" else tuple(name for name in catalogue.kinds() if name == kind)
    return [
        {
            "name": row.name,
            "summary": row.summary,
            "paper": row.paper,
            "needs": row.needs,
            "cost": row.cost,
            "kind": row.kind,
            "class": row.path.replace(":", "."),
            "status": row.status,
            "package": row.package,
        }
        for row in catalogue.rows(*wanted)
    ]


def table(lines: Sequence[Line], width: int | None) -> str:
    """One line per entry: name, summary, then the paper and the package where it is another one; cut at the width."""
    if not lines:
        return "none"
    names, summaries = (max(len(line[column]) for line in lines) for column in ("name", "summary"))
    rows = [f"{line['name']:<{names}}  {line['summary']:<{summaries}}  {_source(line)}".rstrip() for line in lines]
    return "\n".join(row if width is None or len(row) <= width else row[: width - 1] + "…" for row in rows)


def _source(line: Line) -> str:
    package = line.get("package", catalogue.OWN)
    return "  ".join([*filter(None, [line.get("paper")]), *([f"[{package}]"] if package != catalogue.OWN else [])])


def described(row: catalogue.Row) -> str:
    """A name with its arguments and its docstring."""
    import inspect

    maker = row.resolve()
    parts = [
        f"{part.name}={part.default!r}" if part.default is not part.empty else part.name
        for part in inspect.signature(maker).parameters.values()
        if part.kind not in (part.VAR_POSITIONAL, part.VAR_KEYWORD)  # a class without a constructor of its own takes nothing
    ]
    whose = "" if row.package == catalogue.OWN else f" of the package {row.package}"
    head = f"{row.name}({', '.join(parts)})    {catalogue.WORDS[row.kind]}{whose}, {row.path.replace(':', '.')}"
    return f"{head}\n\n{inspect.getdoc(maker) or row.summary}"


def _width() -> int | None:
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None
