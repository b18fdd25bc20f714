"""The recipes that need data of the user's own read at every size that they name."""

from pathlib import Path

import pytest
import yaml

from limbeck.experiment.recipe import load

FOLDER = Path(__file__).parents[2] / "recipes"
RECIPES = sorted(FOLDER.glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_size_reads(path: Path) -> None:
    sizes = yaml.safe_load(path.read_text("utf-8")).get("sizes", {})
    full = load(path)
    assert "smoke" in sizes
    for size in sizes:
        assert load(path, size=size).epochs <= full.epochs or size != "smoke"


def test_the_language_recipes_name_models_for_a_gpu_and_small_ones_for_two_cores() -> None:
    for name in ("sst2", "shakespeare"):
        full, small = load(FOLDER / f"{name}.yaml"), load(FOLDER / f"{name}.yaml", size="small")
        assert (full.teacher.startswith("HFModel"), full.device) == (True, "auto")
        assert (small.teacher.startswith("HFModel"), small.device) == (False, "cpu")
