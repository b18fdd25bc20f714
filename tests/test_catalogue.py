"""The catalogue: every row is real, and METHODS.md says the same."""

from pathlib import Path

from limbeck.catalogue import METHODS, Makers, kinds, methods_page, rows
from limbeck.experiment.recipe import EXPRESSIONS

ROOT = Path(__file__).parent.parent


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
