"""The table of all methods: its recipes are such, what it leaves out exists, and a line is read as it was written."""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from limbeck.catalogue import rows
from limbeck.losses.features.ab import AB
from limbeck.losses.features.reviewkd import ReviewKD
from limbeck.losses.features.rkd import RKD
from limbeck.losses.features.vid import VID
from support.makers import feature_views, featured, normal, scene

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
pytest.importorskip("torchdistill")
import independent  # noqa: E402
import methods  # noqa: E402
import methods_cost  # noqa: E402


def test_its_recipes_are_such_and_what_it_leaves_out_exists() -> None:
    for method in methods.METHODS.values():
        assert methods.recipe_for("Digits()", method, 1).objective == method.objective
    assert set(methods.LEFT_OUT) <= {row.name for row in rows("terms", "steps")}
    assert not set(methods.LEFT_OUT) & set(methods.METHODS)


def test_lines_of_an_earlier_page_are_kept(tmp_path: Path) -> None:
    lines = {name: f"| {name} | `CE()` | 1 | - | 2 | 3 | 4 | 5 | 6 | 7 |" for name in ("CE", "WAKD, EoA", methods.PLAIN)}
    (tmp_path / "page.md").write_text(methods.page(lines, 3, "Digits()", "python"))
    assert methods.lines_of(tmp_path / "page.md") == lines


def test_what_a_step_costs_is_replaced_alone(tmp_path: Path) -> None:
    lines = {name: f"| {name} | `CE()` | 1 | - | 2 | 3 | 4 | 5.00 | 6.00 | 7.00 |" for name in ("CE", "KD")}
    (tmp_path / "page.md").write_text(methods.page(lines, 3, "Digits()", "python"))
    changed = lines["CE"].replace("5.00 | 6.00 | 7.00", "0.55 | 0.47 | 1.00")
    assert methods.again(tmp_path / "page.md", {"CE": (0.55, 0.47, 1.0)}) == {"CE": changed, "KD": lines["KD"]}


def test_what_takes_more_than_its_class_is_named() -> None:
    lines = {
        name: f"| {name} | `CE()` | 1 | - | 2 | 3 | 4 | {cost} | 9 |" for name, cost in (("A", "1.59 | 1.5"), ("B", "1.7 | 1.5"))
    }
    assert methods.over(lines) == "More than a tenth of a plain step over its class: B 1.70 (1.50). The methods' pages say why."
    assert methods.over({"A": lines["A"]}).startswith("More than a tenth of a plain step over its class: none.")


def test_who_goes_through_the_nets_more_often_says_how_often() -> None:
    """A pass too many is not excused by what it multiplies."""
    for name, method in methods.METHODS.items():
        if method.changes.keys() & {"step", "balancer", "weighting"}:
            assert methods.said(name) is not None, name
    assert methods.said("DHKD") == 1.5
    assert methods.said("ReviewKD") is None


def of_one_step(act: Callable[[], object]) -> methods_cost.Steps:
    """A go of one step that is looked at."""

    def steps(read: Callable[[], float]) -> float:
        before = read()
        act()
        return read() - before

    return steps


def test_products_are_counted() -> None:
    """2 x 3 by 3 x 4: 24 multiplications, and as many additions."""
    assert methods_cost.products(of_one_step(lambda: torch.ones(2, 3) @ torch.ones(3, 4))) == 48


def test_searches_are_counted_and_nothing_else() -> None:
    numbers = torch.rand(200, 200)
    assert methods_cost.searches(of_one_step(lambda: numbers @ numbers)) == 0
    assert methods_cost.searches(of_one_step(lambda: numbers.topk(3))) > 0
    assert methods_cost.searches(of_one_step(lambda: numbers.sort())) > 0


def test_a_term_that_only_reads_gives_what_it_read_a_gradient_of_0() -> None:
    both, term = feature_views("maps"), methods_cost.Reading(("layer?",), ("layer?",))
    student = both.student.map(lambda part: part.clone().requires_grad_())
    value = term(replace(both, student=student))
    assert value.tolist() == [0.0] * len(both.batch)
    gradients = torch.autograd.grad(value.sum(), list(student.features.values()))
    assert not any(gradient.any() for gradient in gradients)


NAMES = {
    "AB": {"connectors": "layers"},
    "RKD": {},
    "ReviewKD": {"narrow": "conv1", "out": "conv2", "attend": "attention_conv.0"},
    "VID": {
        "means.0": "layers.0.regressor",
        "means.1": "layers.1.regressor",
        "scales.0": "layers.0.soft_plus_param",
        "scales.1": "layers.1.soft_plus_param",
    },
}
"""What a part of ours is called in the independent implementation."""


@pytest.mark.parametrize("name", NAMES)
def test_an_independent_implementation_is_of_the_same_loss(name: str) -> None:
    """With the same parameters it gives the same mean."""
    sides = (
        {
            "layer1": normal(6, channels, 8, 8, seed=k),
            "layer2": normal(6, 3, 4, 4, seed=k + 2),
            "penultimate": normal(6, 3, seed=k + 4),
        }
        for k, channels in ((0, 2), (1, 4))
    )
    both = featured(*sides)
    ours, theirs = {"AB": AB, "RKD": RKD, "ReviewKD": ReviewKD, "VID": VID}[name](), independent.INDEPENDENT[name]()
    for term in (ours, theirs):
        term.build(scene(both))
        term.double()
    known = dict(theirs.named_parameters())
    assert len(known) == len(list(ours.parameters()))
    for key, part in ours.named_parameters():
        for old, new in NAMES[name].items():
            key = key.replace(old, new)
        known[key].data = part.data
    torch.testing.assert_close(ours(both).mean(), theirs(both).mean().double(), rtol=1e-5, atol=1e-8)


def test_every_line_of_the_page_has_its_class() -> None:
    lines = methods.lines_of(BENCHMARKS.parent / "docs" / "methods" / "results.md")
    assert set(lines) == set(methods.METHODS)
    for line in lines.values():
        assert len(line.split("|")) == 12
