"""Reads a run folder into plain values. Only `result.json` must be there; without another file its part is left out."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, final

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError

from limbeck.core.errors import RunError, UsageError
from limbeck.report.schema import SCHEMA, Gallery, Result

LABELS = ("label", "true_label", "teacher_label", "student_label")
NUMERIC = ("seed", "index", *LABELS, "teacher_prob", "student_prob", "score", "weight", "mean_weight")
NEEDED = ("seed", "index", "split", "label", "score", "weight")

Column = NDArray[np.float64]
Model = TypeVar("Model", bound=BaseModel)


@final
@dataclass(frozen=True)
class Samples:
    """The columns of `samples.parquet`, one entry per (seed, training sample); NaN where a value is not known.

    Attributes:
        columns: Name -> float64 [R]; a column that the file lacks is all NaN.
        split: "train" or "query" of each row, [R].
    """

    columns: Mapping[str, Column]
    split: NDArray[np.str_]

    def __getitem__(self, name: str) -> Column:
        """The column of that name, float64 [R]."""
        return self.columns[name]

    def __len__(self) -> int:
        """R, the number of rows."""
        return len(self.split)

    def where(self, keep: NDArray[np.bool_]) -> "Samples":
        """Only the rows of which `keep` is true."""
        return Samples({name: column[keep] for name, column in self.columns.items()}, self.split[keep])

    @property
    def truth_known(self) -> NDArray[np.bool_]:
        """Whether each row's true label is known, [R]."""
        known: NDArray[np.bool_] = np.isfinite(self["true_label"])
        return known

    @property
    def flipped(self) -> NDArray[np.bool_]:
        """Whether each row's given label is known to be wrong, [R]."""
        wrong: NDArray[np.bool_] = self.truth_known & (self["label"] != self["true_label"])
        return wrong


@final
@dataclass(frozen=True)
class Run:
    """What a run folder holds."""

    folder: Path
    result: Result
    recipe: str
    environment: Mapping[str, Any]
    timings: Mapping[str, Any]
    metrics: tuple[Mapping[str, Any], ...]
    samples: Samples | None
    gallery: Gallery


def read_run(folder: Path) -> Run:
    """The run folder's content, checked against its schema.

    Raises:
        UsageError: There is no such folder.
        RunError: A file is missing that is needed, is damaged, or is of a newer version.
    """
    if not folder.is_dir():
        raise UsageError(f"report: there is no run folder {folder}; give the folder that `limbeck run` wrote.")
    content = _json(folder / "result.json", needed=True)
    version = content.get("schema")
    if isinstance(version, int) and version > SCHEMA:
        raise RunError(
            f"report: {folder / 'result.json'} has schema {version}, this limbeck reads up to {SCHEMA}; update limbeck."
        )
    result = _checked(Result, content, folder / "result.json")
    if result.main not in result.arms:
        raise RunError(f"report: {folder / 'result.json'} names the main arm {result.main!r}, which its arms lack; run it again.")
    recipe = folder / "recipe.yaml"
    return Run(
        folder=folder,
        result=result,
        recipe=_text(recipe) if recipe.exists() else "",
        environment=_json(folder / "environment.json"),
        timings=_json(folder / "timings.json"),
        metrics=_lines(folder / "metrics.jsonl"),
        samples=_samples(folder / "samples.parquet"),
        gallery=_checked(Gallery, _json(folder / "gallery.json"), folder / "gallery.json"),
    )


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"report: {path} cannot be read ({type(error).__name__}); run it again.") from error


def _json(path: Path, *, needed: bool = False) -> dict[str, Any]:
    if not path.exists():
        if needed and not (path.parent / "recipe.yaml").exists():
            raise UsageError(f"report: {path.parent} is no run folder: it has no recipe.yaml; give what `limbeck run` wrote.")
        if needed:
            raise RunError(f"report: {path.parent} has no {path.name}, so the run has not ended; resume it with --resume first.")
        return {}
    try:
        content = json.loads(_text(path))
    except json.JSONDecodeError as error:
        raise RunError(f"report: {path} is no valid JSON (line {error.lineno}: {error.msg}); run it again.") from error
    if not isinstance(content, dict):
        raise RunError(f"report: {path} must hold a JSON object, got {type(content).__name__}; run it again.")
    return content


def _checked(model: type[Model], content: Mapping[str, Any], path: Path) -> Model:
    try:
        return model.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(step) for step in first["loc"])
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise RunError(f"report: {path} does not fit its schema at '{where}': {first['msg']}{more}; run it again.") from error


def _lines(path: Path) -> tuple[Mapping[str, Any], ...]:
    """The objects of a JSONL file. A torn last line, left by a run that was killed, is passed over.

    Raises:
        RunError: A line before the last is no JSON.
    """
    if not path.exists():
        return ()
    lines = [line for line in _text(path).split("\n") if line.strip()]
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            if number == len(lines):
                break
            raise RunError(f"report: {path} is no valid JSON at line {number}; run it again.") from error
        if isinstance(row, dict):
            rows.append(row)
    return tuple(rows)


def _samples(path: Path) -> Samples | None:
    if not path.exists():
        return None
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise RunError(f"report: {path} is no readable parquet file; run it again.") from error
    missing = [name for name in NEEDED if name not in table.column_names]
    if missing:
        raise RunError(f"report: {path} lacks the columns {missing}; run it again.")
    try:
        columns = {name: _column(table, name) for name in NUMERIC}
    except (pa.ArrowException, ValueError) as error:
        raise RunError(f"report: {path} has a column that holds no numbers ({error}); run it again.") from error
    split = np.array([str(value) for value in table.column("split").to_pylist()], dtype=np.str_)
    return Samples(columns, split) if len(split) else None


def _column(table: Any, name: str) -> Column:  # noqa: ANN401  pyarrow has no types
    if name not in table.column_names:
        return np.full(table.num_rows, np.nan)
    values = table.column(name).to_pylist()
    return np.array([np.nan if value is None else float(value) for value in values], dtype=np.float64)
