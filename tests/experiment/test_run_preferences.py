"""Whole runs on preferences: DCKD with influence weights, and ADPA with an aligned pair of nets."""

import json
import random
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from limbeck.core.errors import UsageError
from limbeck.experiment.recipe import Recipe
from limbeck.experiment.run import dry_run, run
from limbeck.report.render import render

WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "ran"]
GPT = "GPT(width=8, depth=1, heads=2)"


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Prompts of two words; people like replies that begin with them, and the student's own are others."""
    draw, path = random.Random(0), tmp_path_factory.mktemp("pairs") / "p.jsonl"
    rows = []
    for _ in range(60):
        prompt = " ".join(draw.choices(WORDS, k=2))
        rows.append({"prompt": prompt, "chosen": f" {prompt}", "rejected": " no", "own": f" {draw.choice(WORDS)}"})
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


def tiny(table: str, **changes: Any) -> Recipe:
    plain: dict[str, Any] = {
        "name": "pairs",
        "data": f"Preferences({table!r}, length=24)",
        "teacher": GPT,
        "student": GPT,
        "objective": 'OnReplies(CE(), "chosen") + TopKTail(KD(T=1), k=20) * 0.2',
        "weighting": "InfluenceWeighting(refresh=3, samples=16)",
        "optimizer": "Adam(lr=0.02)",
        "epochs": 3,
        "batch_size": 12,
        "seeds": 1,
        "query": 8,
        "compare": ["no_kd"],
    }
    return Recipe.of({**plain, **changes})


@pytest.mark.slow
def test_dckd_weighs_replies_and_is_judged_on_preferred_ones(table: str, tmp_path: Path) -> None:
    content = run(tiny(table), tmp_path / "run").content
    assert content["data"]["counts"] == {"train": 2 * (60 - 18 - 4 - 8), "query": 8, "validation": 4, "test": 18}
    samples = pq.read_table(tmp_path / "run" / "samples.parquet").to_pydict()
    rejected = [weight for row, weight in zip(samples["index"], samples["weight"], strict=True) if row % 2]
    assert len(rejected) == 30
    assert len(set(rejected)) > 1
    terms = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert next(row for row in terms if row["arm"] == "no_kd" and row["phase"] == "train")["terms"].keys() == {"OnReplies"}
    assert render(tmp_path / "run").exists()


@pytest.mark.parametrize(("reply", "columns"), [("own", ""), ("rejected", "rejected=None, ")])
def test_a_term_on_replies_that_the_data_have_not_is_refused(table: str, reply: str, columns: str) -> None:
    """It would be 0 at every step, and the run would look like any other."""
    data, objective = f"Preferences({table!r}, {columns}length=24)", f"CE() + OnReplies(CE(), {reply!r}) * 0.5"
    with pytest.raises(UsageError, match=f"has no '{reply}' replies; name their column with {reply}="):
        dry_run(tiny(table, data=data, objective=objective))


@pytest.mark.slow
def test_adpa_learns_from_a_pair_whose_weights_are_given(table: str, tmp_path: Path) -> None:
    pair = f"AlignedPair({GPT}, {GPT})"
    own = {
        "data": f"Preferences({table!r}, rejected=None, own='own', length=24)",
        "teacher": pair,
        "teacher_epochs": 0,
        "objective": 'OnReplies(CE(), "chosen") + OnReplies(ADPA(k=20), "own") * 1.5',
        "weighting": "Uniform()",
        "epochs": 1,
    }
    run(tiny(table, **own), tmp_path / "run")
    kept = load_file(tmp_path / "run" / "teacher.safetensors")
    assert {name.partition(".")[0] for name in kept} == {"after", "before"}
    found = run(tiny(table, **own, teacher_weights=str(tmp_path / "run" / "teacher.safetensors")), tmp_path / "again").content
    again = load_file(tmp_path / "again" / "teacher.safetensors")
    assert all(torch.equal(part, again[name]) for name, part in kept.items())
    assert found["status"] == "done"
    with pytest.raises(UsageError, match="reads the teacher's reference"):
        dry_run(tiny(table, **{**own, "teacher": GPT}))
