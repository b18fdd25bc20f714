"""The table of all methods: its recipes are such, what it leaves out exists, and a line is read as it was written."""

import sys
from pathlib import Path

import torch

from limbeck.catalogue import rows

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
import methods  # noqa: E402


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


def test_products_are_counted() -> None:
    """2 x 3 by 3 x 4: 24 multiplications, and as many additions."""
    assert methods.products(lambda: torch.ones(2, 3) @ torch.ones(3, 4)) == 48


def test_every_line_of_the_page_has_its_class() -> None:
    lines = methods.lines_of(BENCHMARKS.parent / "docs" / "methods" / "results.md")
    assert set(lines) == set(methods.METHODS)
    for line in lines.values():
        assert len(line.split("|")) == 12
