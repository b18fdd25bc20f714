"""Reads a run folder and writes its `report.html`: one file that opens from disk and loads nothing."""

import base64
import contextlib
import hashlib
import os
import tempfile
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from limbeck.core.errors import RunError
from limbeck.report.content import page
from limbeck.report.palette import DARK, LIGHT, light_to_dark
from limbeck.report.reading import read_run

NAME = "report.html"


def render(folder: Path) -> Path:
    """Write `report.html` into the run folder and return its path.

    Args:
        folder: A run folder as docs/guide/run-folder.md describes it; only its `result.json` must be there.

    A folder that does not exist is a UsageError; a damaged file, a newer version or a full disk is a RunError.
    """
    content = page(read_run(folder))
    plotly, script = _plotly(), _part("report.js")
    html = _environment().from_string(_part("template.html")).render(
        page=content,
        policy=_policy(plotly, script),
        light=LIGHT,
        dark=DARK,
        colours=light_to_dark(),
        style=Markup(_part("style.css")),
        plotly=Markup(plotly),
        script=Markup(script),
    )  # fmt: skip
    path = folder / NAME
    _write(path, html)
    return path


def _environment() -> Environment:
    return Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)


def _part(name: str) -> str:
    return files("limbeck.report").joinpath(name).read_text(encoding="utf-8").replace("\r\n", "\n")


def _plotly() -> str:
    """plotly.js as text that can stand within a script element.

    Raises:
        RunError: The bundle could end the script element early.
    """
    from plotly.offline import get_plotlyjs

    bundle = str(get_plotlyjs()).replace("\r\n", "\n").replace("\r", "\n")
    if "</script" in bundle.lower() or "<!--" in bundle:
        raise RunError("report: this plotly's script cannot be put into a page; install another version of plotly.")
    return bundle


def _policy(*scripts: str) -> str:
    """A content security policy under which only these scripts run and nothing is loaded from anywhere."""
    hashes = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in hashes)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
    )


def _write(path: Path, text: str) -> None:
    """Write beside the place, then put it there at once; what stood there before stays until then.

    Raises:
        RunError: The disk is full or the folder cannot be written.
    """
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            try:
                file.write(text.encode("utf-8", errors="replace"))
                file.flush()
                os.fsync(file.fileno())
                os.chmod(file.name, 0o644)
                os.replace(file.name, path)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(file.name)
                raise
    except OSError as error:
        raise RunError(f"report: {path} cannot be written ({error.strerror or error}); free the disk or the folder.") from error
