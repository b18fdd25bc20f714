"""Whole runs in which a mixture chooses the domains of the samples."""

from pathlib import Path
from typing import Any

import pytest
import torch
from run_makers import TINY, rows_of, tiny

from limbeck.core.errors import UsageError
from limbeck.experiment.recipe import Recipe
from limbeck.experiment.run import dry_run, run
from limbeck.report.balance import balance
from limbeck.report.reading import read_run


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Points of three domains, of which c has few rows and another rule."""
    draw, path = torch.Generator().manual_seed(0), tmp_path_factory.mktemp("table") / "t.csv"
    lines = ["x,y,domain,label"]
    for row in range(600):
        domain = "abc"[row % 3 if row % 12 < 3 else row % 2]
        x, y = torch.randn(2, generator=draw).tolist()
        lines.append(f"{x:.4f},{y:.4f},{domain},{int(x > 0) if domain != 'c' else int(x < 0)}")
    path.write_text("\n".join(lines))
    return f"Table({str(path)!r}, group='domain')"


def mixed(table: str, **changes: Any) -> Recipe:
    plain = {**TINY, "data": table, "weighting": "Uniform()", "mixture": "DDK(every=2)", "batch_size": 50, "seeds": 1}
    return Recipe.of({**plain, "compare": ["no_kd", "fixed_mixture"], **changes})


def test_a_run_logs_shares_and_lag_and_is_judged_against_rows_as_they_come(table: str, tmp_path: Path) -> None:
    content = run(mixed(table), tmp_path / "run").content
    rows = [row for row in rows_of(tmp_path / "run") if row["phase"] == "train"]
    own = [row for row in rows if row["arm"] == content["main"]]
    assert [sum(row[f"share_{name}"] for name in "abc") for row in own] == pytest.approx([1.0] * len(own))
    assert all(row["lag_c"] > 0 for row in own)
    assert not any("share_a" in row for row in rows if row["arm"] in ("no_kd", "fixed_mixture", "teacher"))
    assert content["arms"]["main"]["title"] == "KD, Uniform() (DDK(every=2))"
    assert "fixed_mixture" in {one["against"] for one in content["verdict"]["comparisons"]}
    assert content["arms"]["fixed_mixture"]["per_seed"] != content["arms"]["main"]["per_seed"]
    figures = balance(read_run(tmp_path / "run"))
    assert [figure.title for figure in figures] == ["Mixture of domains", "Lag by domain"]


def test_what_cannot_be_mixed_is_refused_before_anything_is_written(table: str) -> None:
    with pytest.raises(UsageError, match="has no domains to mix; name their column with group="):
        dry_run(tiny(mixture="DDK(every=2)"))
    with pytest.raises(UsageError, match="it cannot be trained on as well"):
        mixed(table, query_in_training=True)
    with pytest.raises(UsageError, match="'fixed_mixture' is the method without its mixture"):
        mixed(table, mixture=None)
    with pytest.raises(UsageError, match="needs one share for each of the 3 domains, got 2"):
        dry_run(mixed(table, mixture="FixedShares([1, 2])"))
