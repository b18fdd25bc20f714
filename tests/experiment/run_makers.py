"""A recipe that is over in a second or two, and what its folder must hold the same twice."""

import hashlib
import json
from pathlib import Path
from typing import Any

from limbeck.experiment.recipe import Recipe

SAME = (
    "recipe.yaml",
    "metrics.jsonl",
    "samples.parquet",
    "gallery.json",
    "student.safetensors",
    "teacher.safetensors",
    "card.md",
    "result.json",
)
"""Files that hold the same bytes whenever the same recipe is run on the same machine."""
FILES = {*SAME, "environment.json", "timings.json"}

TINY: dict[str, Any] = {
    "name": "tiny",
    "data": "Digits(label_noise=0.3)",
    "teacher": "MLP(width=16, depth=1)",
    "student": "MLP(width=8, depth=1, dropout=0.1)",
    "objective": "KD(T=2) * 0.5 + CE() * 0.5",
    "weighting": "InfluenceWeighting(refresh=3, samples=64)",
    "optimizer": "SGD(lr=0.1, momentum=0.9)",
    "epochs": 2,
    "batch_size": 200,
    "seeds": 2,
    "query": 50,
    "compare": ["no_kd", "uniform"],
}


def tiny(**changes: Any) -> Recipe:
    return Recipe.of({**TINY, **changes})


def marks(folder: Path) -> dict[str, str]:
    """A digest of every file that must be the same."""
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in SAME}


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
