"""The studies of on-policy distillation: their arms can be read as recipes; a table says what is gained, whichever way is up."""

import sys
from pathlib import Path

import pytest

from limbeck.experiment.recipe import load

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
import onpolicy  # noqa: E402


@pytest.mark.parametrize("study", onpolicy.studies("JSD()"))
def test_every_arm_is_a_recipe(study: str) -> None:
    for step, objective in onpolicy.studies("JSD()")[study].ways.values():
        recipe = load("digits", settings=[f"step={step}", f"objective={objective}"])
        assert repr(recipe.expressions()["step"].build())
        assert repr(recipe.expressions()["objective"].build())


def test_gains_of_losses_and_of_shares_have_the_same_sign() -> None:
    base = [{"nll": 2.0, "exact_match": 0.5}, {"nll": 2.1, "exact_match": 0.5}]
    better = [{"nll": 1.0, "exact_match": 0.7}, {"nll": 1.2, "exact_match": 0.8}]
    for key in ("nll", "exact_match"):
        assert "(+" in onpolicy.cell(key, better, base)
    assert onpolicy.cell("nll", base, None) == "2.050"
    assert onpolicy.cell("nll", [{"nll": None}], None) == "-"
