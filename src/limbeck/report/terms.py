"""What each term of the objective amounted to in the main arm: its mean, what it added to the loss, how it moved the student."""

from collections.abc import Mapping
from typing import Any

from limbeck.report.charts import Table
from limbeck.report.reading import Run
from limbeck.report.statistics import learning_band, mean
from limbeck.report.wording import DASH, number, percent

HEAD = ("Term", "Mean, first epoch", "Mean, last epoch", "In the loss, last epoch", "Share of the gradient")


def terms(run: Run) -> Table | None:
    """One row per term, mean over seeds; None where the course of training was not kept."""
    main = run.result.main
    rows = [row for row in run.metrics if row.get("arm") == main and row.get("phase") == "train"]
    names = list(dict.fromkeys(name for row in rows for name in _inside(row, "terms")))
    if not names:
        return None
    return Table(f"Terms of {run.result.title(main)}, mean over seeds", HEAD, tuple((name, *_cells(run, name)) for name in names))


def _cells(run: Run, name: str) -> tuple[str, ...]:
    main, keys = run.result.main, ("terms", "weighted", "shares")
    raw, added, share = (learning_band(run.metrics, main, "train", (key, name)) for key in keys)
    ends = (number(raw.mean[0]), number(raw.mean[-1])) if raw else (DASH, DASH)
    return (*ends, number(added.mean[-1]) if added else DASH, percent(mean(share.mean)) if share else DASH)


def _inside(row: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = row.get(key)
    return value if isinstance(value, Mapping) else {}
