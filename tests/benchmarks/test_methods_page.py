"""The table of all methods: its recipes are such, what it leaves out exists, and a line is read as it was written."""

import sys
from pathlib import Path

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
    lines = {name: f"| {name} | `CE()` | 1 | - | 2 | 3 | 4 | 5 | 6 |" for name in ("CE", "WAKD, EoA", methods.PLAIN)}
    (tmp_path / "page.md").write_text(methods.page(lines, 3, "Digits()", "python"))
    assert methods.lines_of(tmp_path / "page.md") == lines
