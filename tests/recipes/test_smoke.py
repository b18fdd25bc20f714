"""Every recipe that comes with the package and needs no download ends at its smoke size, and its nets learn."""

import json
from pathlib import Path

import pytest

from limbeck.experiment.recipe import load
from limbeck.experiment.run import dry_run, run

RECIPES = sorted(path.stem for path in (Path(__file__).parents[2] / "src" / "limbeck" / "recipes").glob("*.yaml"))
WITHOUT_DOWNLOAD = [name for name in RECIPES if load(name).data.startswith("Digits")]


def test_there_is_one_to_begin_with() -> None:
    assert "digits" in WITHOUT_DOWNLOAD


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_reads_at_every_size(name: str) -> None:
    full, smoke = load(name), load(name, size="smoke")
    assert smoke.epochs * smoke.seeds < full.epochs * full.seeds
    assert load(name, size="full") == full


@pytest.mark.recipe
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == "digits" else pytest.mark.slow) for name in WITHOUT_DOWNLOAD]
)
def test_the_smoke_size_ends_and_lowers_its_loss(name: str, tmp_path: Path) -> None:
    recipe = load(name, size="smoke", seeds=1)
    assert dry_run(recipe).seconds < 300
    content = run(recipe, tmp_path / "run").content
    assert content["status"] == "done"
    losses: dict[str, list[float]] = {}
    for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        if row["phase"] == "validation":
            losses.setdefault(row["arm"], []).append(row["loss"])
    assert losses.keys() == {"teacher", *recipe.compare, content["main"]}
    for arm, course in losses.items():
        assert len(course) == (recipe.teacher_epochs if arm == "teacher" else recipe.epochs)
        assert course[-1] < course[0], arm
    chance = 1 / len(content["data"]["classes"])
    assert content["arms"]["teacher"]["per_seed"]["accuracy"][0] > 2 * chance
