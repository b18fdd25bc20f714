"""Every row of kind `terms`: a new term is one row of the catalogue and inherits every check."""

from collections.abc import Callable
from typing import final, get_args

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck
from torch.autograd.gradcheck import GradcheckError

from limbeck.catalogue import Row, rows
from limbeck.core.errors import ShapeError
from limbeck.core.outputs import Views
from limbeck.core.term import Term
from support.makers import FeatureKind, FromTheMean, feature_views, random_views, scene, take, token_views
from support.properties import PROPERTIES, assert_gradcheck, at

Property = Callable[[Term, Views], None]


def make(row: Row) -> Term:
    """The term as its defaults make it."""
    term = row.resolve()()
    assert isinstance(term, Term)
    return term


def built(row: Row, views: Views) -> Term | None:
    """The term with its parts, in float64; None where it takes no views of this kind and says so in one sentence."""
    term = make(row)
    torch.manual_seed(0)
    try:
        if term.builds:
            term.build(scene(views))
        term.double()(views)
    except ShapeError as error:
        if not str(error).startswith(row.name):
            raise
        return None
    return term


ON_LOGITS = [row for row in rows("terms") if "student_features" not in make(row).needs]
ON_FEATURES = [row for row in rows("terms") if "student_features" in make(row).needs]
KINDS: tuple[FeatureKind, ...] = get_args(FeatureKind)


@pytest.mark.parametrize("row", ON_LOGITS, ids=lambda row: row.name)
@pytest.mark.parametrize("prop", PROPERTIES, ids=lambda prop: prop.__name__.removeprefix("assert_"))
@pytest.mark.parametrize("make_views", [random_views, token_views], ids=["samples", "tokens"])
def test_term_contract(row: Row, prop: Property, make_views: Callable[[], Views]) -> None:
    views = make_views()
    term = built(row, views)
    assert term is not None or make_views is token_views  # some take one row of logits per sample only
    if term is not None:
        prop(term, views)


@pytest.mark.parametrize("row", ON_FEATURES, ids=lambda row: row.name)
@pytest.mark.parametrize("kind", KINDS)
def test_feature_term_contract(row: Row, kind: FeatureKind) -> None:
    views = feature_views(kind)
    term = built(row, views)
    for prop in PROPERTIES if term is not None else []:
        prop(term, views)  # type: ignore[arg-type]


@pytest.mark.parametrize("row", ON_FEATURES, ids=lambda row: row.name)
def test_a_feature_term_takes_some_kind_of_feature_and_names_its_taps(row: Row) -> None:
    assert any(built(row, feature_views(kind)) is not None for kind in KINDS)
    term = make(row)
    assert term.student_taps
    assert ("teacher_features" in term.needs) == bool(term.teacher_taps)


@pytest.mark.parametrize("row", rows("terms"), ids=lambda row: row.name)
def test_term_says_what_it_is(row: Row) -> None:
    term = make(row)
    assert repr(term).startswith(f"{row.name}(")
    assert term.needs <= {"teacher", "targets", "student_features", "teacher_features"}


def test_the_battery_bites() -> None:
    """A coupled term that does not say so is caught."""
    liar = FromTheMean()
    liar.coupled = False
    with pytest.raises(AssertionError):
        PROPERTIES[2](liar, random_views())


@final
class OwnFactor(Term):
    """s times s, the first of the two held fixed."""

    def forward(self, views: Views) -> Tensor:
        logits = views.student.logits
        return (logits.detach() * logits).sum(1)


def test_what_a_term_detaches_stands_still_under_finite_differences() -> None:
    both = take(random_views(), slice(0, 3))
    assert_gradcheck(OwnFactor(), both)
    with pytest.raises(GradcheckError):
        gradcheck(lambda logits: at(OwnFactor(), both, [logits]), both.student.logits.clone().requires_grad_())
