"""From rows of a catalogue to checks: what holds for every method, whoever wrote it."""

import copy
import inspect
import typing
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from typing import final, get_args

import torch
from torch.autograd.gradcheck import GradcheckError

from limbeck.balancing.balancer import Balancer
from limbeck.catalogue import Row
from limbeck.core.errors import ShapeError
from limbeck.core.outputs import Views
from limbeck.core.term import Need, Term
from limbeck.core.user_code import DOOR
from limbeck.testing import balancers, terms
from limbeck.testing.makers import FeatureKind, feature_views, random_views, scene, token_views

KINDS: tuple[FeatureKind, ...] = get_args(FeatureKind)
LOGITS: list[Callable[[], Views]] = [random_views, token_views]


@final
@dataclass(frozen=True)
class Check:
    """One check: called, it passes or says what does not hold.

    Args:
        name: What is checked, and on what.
        claim: What must hold, in words.
        run: Fails with an assertion.
    """

    name: str
    claim: str
    run: Callable[[], None]

    def __call__(self) -> None:
        """Run it.

        Raises:
            AssertionError: What is claimed does not hold.
        """
        try:
            self.run()
        except (AssertionError, GradcheckError) as error:
            raise AssertionError(f"{self.name}: {self.claim} {error}".strip()) from error

    def __str__(self) -> str:
        return self.name


def checks(rows: Iterable[Row]) -> list[Check]:
    """Every check of these methods: of all kinds that their names lead to them, of terms and balancers their whole contract.

    Args:
        rows: As in a catalogue; doors to a user's own code are passed over.

    >>> from limbeck.catalogue import rows
    >>> for check in checks(row for row in rows("balancers") if row.name == "Static"):
    ...     print(check)
    ...     check()
    Static-named
    Static-factors
    Static-nothing_else_moves
    Static-state_goes_on
    """
    found: list[Check] = []
    for row in rows:
        if row.name == DOOR:
            continue
        found.append(_check(f"{row.name}-named", assert_named, row))
        if row.kind == "terms":
            found += _of_term(row)
        elif row.kind == "balancers":
            found += [_check(f"{row.name}-{_short(prop)}", prop, partial(_balancer, row)) for prop in balancers.PROPERTIES]
    return found


def compile_checks(rows: Iterable[Row]) -> list[Check]:
    """One check per term: `torch.compile` takes it, or it says otherwise. Apart from `checks`, since each takes seconds.

    Args:
        rows: As in a catalogue; what is no term, and doors to a user's own code, are passed over.
    """
    kept = [row for row in rows if row.kind == "terms" and row.name != DOOR]
    return [_check(f"{row.name}-compiles", _compiles, row) for row in kept]


def _compiles(row: Row) -> None:
    """`torch.compile` takes the term as one graph, or the term says that it does not."""
    for make in _tried(row).values():
        term, views = _ready(row, make)
        if term is not None:
            terms.assert_compiles(term, views)
            return


def assert_named(row: Row) -> None:
    """A row names a documented class or function of that name whose arguments can be read from a recipe."""
    maker = row.resolve()
    assert maker.__name__ == row.name, f"the row says {row.name}, the class is {maker.__name__}"
    assert maker.__doc__
    assert row.summary
    inspect.signature(maker)
    typing.get_type_hints(maker.__init__ if isinstance(maker, type) else maker)  # type: ignore[misc]  # of the class itself


def assert_says_what_it_is(row: Row) -> None:
    """A term is made without arguments, is shown as it is typed, and needs what is known; taps go with the need for features."""
    term = _term(row)
    assert repr(term).startswith(f"{row.name}(")
    assert term.needs <= set(get_args(Need))
    assert ("student_features" in term.needs) == bool(term.student_taps)
    assert ("teacher_features" in term.needs) == bool(term.teacher_taps)


def assert_takes_some_views(row: Row) -> None:
    """A term takes logits of samples or of tokens, or features of some kind; what it does not take it refuses in one sentence."""
    kinds: list[Callable[[], Views]] = [partial(feature_views, kind) for kind in KINDS] if _on_features(row) else LOGITS
    assert any(built(row, make()) is not None for make in kinds)


def built(row: Row, views: Views) -> Term | None:
    """The term with its parts, in float64; None where it takes no views of this kind and says so in one sentence.

    Raises:
        ShapeError: It refuses them without its name.
    """
    term = _term(row)
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


def _of_term(row: Row) -> Iterator[Check]:
    yield _check(f"{row.name}-says_what_it_is", assert_says_what_it_is, row)
    yield _check(f"{row.name}-takes_some_views", assert_takes_some_views, row)
    for kind, make in _tried(row).items():
        ready = cache(partial(_ready, row, make))  # building may take training: once for all properties
        for prop in terms.PROPERTIES:
            yield Check(f"{row.name}-{kind}-{_short(prop)}", _claim(prop), partial(_hold, prop, ready))


def _tried(row: Row) -> dict[str, Callable[[], Views]]:
    """What a term is tried on, by kind."""
    if _on_features(row):
        return {kind: partial(feature_views, kind) for kind in KINDS}
    return {"samples": random_views, "tokens": token_views}


def _ready(row: Row, make: Callable[[], Views]) -> tuple[Term | None, Views]:
    views = make()
    return built(row, views), views


def _hold(prop: terms.Property, ready: Callable[[], tuple[Term | None, Views]]) -> None:
    term, views = ready()
    if term is not None:
        prop(copy.deepcopy(term), views)


def _on_features(row: Row) -> bool:
    return "student_features" in _term(row).needs


def _term(row: Row) -> Term:
    term = row.resolve()()
    assert isinstance(term, Term), f"{row.name} is no limbeck Term"
    return term


def _balancer(row: Row) -> Balancer:
    balancer = row.resolve()()
    assert isinstance(balancer, Balancer), f"{row.name} is no limbeck Balancer"
    assert repr(balancer).startswith(f"{row.name}(")
    return balancer


T = typing.TypeVar("T")


def _check(name: str, prop: Callable[[T], None], subject: T) -> Check:
    return Check(name, _claim(prop), partial(prop, subject))


def _claim(prop: Callable[..., None]) -> str:
    return (inspect.getdoc(prop) or "").splitlines()[0]


def _short(prop: Callable[..., None]) -> str:
    return prop.__name__.removeprefix("assert_")
