"""Every row of kind `terms`: a new term is one row of the catalogue and inherits every check."""

from collections.abc import Callable

import pytest

from limbeck.catalogue import Row, rows
from limbeck.core.outputs import Views
from limbeck.core.term import Term
from support.makers import FromTheMean, random_views, token_views
from support.properties import PROPERTIES

Property = Callable[[Term, Views], None]


def make(row: Row) -> Term:
    """The term as its defaults make it."""
    term = row.resolve()()
    assert isinstance(term, Term)
    return term


@pytest.mark.parametrize("row", rows("terms"), ids=lambda row: row.name)
@pytest.mark.parametrize("prop", PROPERTIES, ids=lambda prop: prop.__name__.removeprefix("assert_"))
@pytest.mark.parametrize("make_views", [random_views, token_views], ids=["samples", "tokens"])
def test_term_contract(row: Row, prop: Property, make_views: Callable[[], Views]) -> None:
    prop(make(row), make_views())


@pytest.mark.parametrize("row", rows("terms"), ids=lambda row: row.name)
def test_term_says_what_it_is(row: Row) -> None:
    term = make(row)
    assert repr(term).startswith(f"{row.name}(")
    assert term.needs <= {"teacher", "targets", "student_features", "teacher_features"}


def test_the_battery_bites() -> None:
    """A coupled term that does not say so is caught."""
    liar = FromTheMean()
    liar.coupled = False  # type: ignore[misc]
    with pytest.raises(AssertionError):
        PROPERTIES[2](liar, random_views())
