"""A whole run whose student trains on what it writes itself."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from limbeck.core.errors import UsageError
from limbeck.experiment.recipe import Recipe
from limbeck.experiment.run import run


def recipe(folder: Path, **changes: Any) -> Recipe:
    draw, path = random.Random(0), folder / "t.txt"
    path.write_text(" ".join(draw.choice(["the", "cat", "sat", "on", "a", "mat"]) for _ in range(300)))
    return Recipe.of(
        {
            "name": "written",
            "data": f"Text({str(path)!r}, length=12)",
            "teacher": "GPT(width=8, depth=1, heads=2)",
            "student": "GPT(width=8, depth=1, heads=2)",
            "objective": "JSD()",
            "step": "OnPolicy(share=0.5, length=3, context=4)",
            "weighting": "Uniform()",
            "optimizer": "Adam(lr=0.02)",
            "epochs": 2,
            "batch_size": 16,
            "seeds": 1,
            "query": 10,
            "test": 0.2,
            "compare": ["no_kd"],
            **changes,
        }
    )


@pytest.mark.slow
def test_a_run_on_policy_says_how_many_steps_were(tmp_path: Path) -> None:
    """The arm without a teacher takes the plain step, on labels."""
    run(recipe(tmp_path), tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    written = {row["arm"]: row.get("written_steps") for row in rows if row["phase"] == "train"}
    assert written.pop("no_kd") is None
    steps = max(row["step"] for row in rows if row["arm"] == "no_kd")
    assert any(count is not None and 0 < count < steps for count in written.values())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("objective", "step", "weighting", "figures"),
    [
        (
            "MiniLLM() + ReverseKL() * 0.1",
            'WithText(OnPolicy(1.0, "both", reuse=2, length=3, context=4))',
            "Uniform()",
            {"written_steps", "text_loss"},
        ),
        (
            "TRRD(beta=0.01)",
            "GRPO(SameText(), group=2, length=2, context=4)",
            "InfluenceWeighting(samples=8)",
            {"reward", "groups_apart"},
        ),
        (
            "MiniLLM() + ReverseKL() * 0.1",
            'OnPolicy(1.0, "both", length=3, context=4)',
            "InfluenceWeighting(samples=8)",
            {"written_steps", "query_loss"},
        ),
    ],
)
def test_the_recipes_of_the_papers_run(objective: str, step: str, weighting: str, figures: set[str], tmp_path: Path) -> None:
    """To the end, where the samples of the data are scored by other terms, or by their labels."""
    run(recipe(tmp_path, objective=objective, step=step, weighting=weighting, epochs=10, compare=[]), tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert any(figures <= set(row) for row in rows if row["phase"] == "train")


def test_labels_beside_own_texts_are_refused_before_any_training(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="OnPolicy: CE would take what the student wrote for the truth"):
        run(recipe(tmp_path, objective="JSD() + CE()"), tmp_path / "run")
    assert not (tmp_path / "run").exists()
