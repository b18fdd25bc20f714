"""The catalogue: every row is real, and METHODS.md says the same."""

import inspect
import typing
from pathlib import Path

import pytest

from limbeck.catalogue import METHODS, ROWS, Makers, Row, kinds, methods_page, rows
from limbeck.experiment.recipe import EXPRESSIONS

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.kind}-{row.name}")
def test_every_row_resolves_to_what_it_names(row: Row) -> None:
    maker = row.resolve()
    assert maker.__name__ == row.name
    assert maker.__doc__
    inspect.signature(maker)
    typing.get_type_hints(maker.__init__ if isinstance(maker, type) else maker)


def test_names_are_unique_within_a_recipe_key() -> None:
    for wanted in EXPRESSIONS.values():
        names = [row.name for row in rows(*wanted)]
        assert len(names) == len(set(names))


def test_every_kind_has_rows_and_methods_say_what_they_cost() -> None:
    for kind in kinds():
        assert rows(kind)
    for row in rows(*METHODS):
        assert row.cost, row.name
        assert row.summary, row.name


def test_makers_import_nothing_until_asked() -> None:
    makers = Makers("terms")
    assert "KD" in makers
    assert "EKFAC" not in makers
    assert len(makers) == len(list(makers))
    assert makers["KD"].__name__ == "KD"


def test_the_methods_page_is_the_rendered_catalogue() -> None:
    assert (ROOT / "METHODS.md").read_text(encoding="utf-8") == methods_page(), "run `make docs`"
