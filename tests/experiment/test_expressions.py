"""Expressions: what parses, what is refused and in which words, and that no text whatever does anything else."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck.core.errors import MissingExtraError, UsageError
from limbeck.core.objective import Objective
from limbeck.experiment.expressions import Names, parse
from limbeck.losses.labels.ce import CE
from limbeck.losses.logits.kd import KD


@dataclass(frozen=True)
class Solver:
    damping: float = 0.1


@dataclass(frozen=True)
class Weighting:
    solver: Solver = Solver()
    normalise: Literal["std", "zscore"] | None = "zscore"
    refresh: int = 20
    sizes: tuple[int, ...] = ()
    names: Sequence[str] = ()
    warm: bool = False
    file: Path | None = None


@dataclass(frozen=True)
class Needy:
    a: int
    b: int = 0


class Broken:
    def __init__(self, how: str = "type") -> None:
        raise {"type": TypeError("x"), "value": ValueError("x"), "extra": MissingExtraError("Broken needs limbeck[x].")}[how]


def python(target: str, **literals: object) -> tuple[str, dict[str, object]]:
    return target, literals


TERMS = Names("term", {"KD": KD, "CE": CE}, None, "`limbeck list terms` shows all", {"EKFAC": "solver", "KD": "term"})
PARTS = Names("weighting", {"W": Weighting, "Needy": Needy, "Broken": Broken}, {"EKFAC": Solver, "KD": KD})


def make(text: str, names: Names = TERMS, *, allow_python: bool = False) -> object:
    return parse(text, names, key="objective", allow_python=allow_python).build()


def message(text: str, names: Names = TERMS) -> str:
    with pytest.raises(UsageError) as caught:
        make(text, names)
    said = str(caught.value)
    assert "\n" not in said
    assert said.startswith("objective: ")
    assert said.endswith((".", "?"))
    return said


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("KD(T=4) * 0.7 + CE() * 0.3", "KD(T=4) * 0.7 + CE() * 0.3"),
        ("0.7 * KD(4) + 0.3 * CE(smoothing=0.1)", "KD(T=4) * 0.7 + CE(smoothing=0.1) * 0.3"),
        ("(KD() + CE()) * 0.5", "KD(T=4) * 0.5 + CE() * 0.5"),
        ("KD() * (0.5 + 0.25)", "KD(T=4) * 0.75"),
        ("KD() * -1", "KD(T=4) * -1"),
        ("  KD()  ", "KD(T=4)"),
        ("CE() * 2 * 3", "CE() * 6"),
    ],
)
def test_objectives_read_like_the_formula(text: str, shown: str) -> None:
    assert repr(make(text)) == shown


def test_arguments_are_literals_or_further_expressions() -> None:
    made = make('W(EKFAC(damping=1), normalise="std", refresh=5, sizes=[1, 2], names=("a", "b"), warm=True, file="x.npz")', PARTS)
    assert made == Weighting(Solver(1), "std", 5, (1, 2), ("a", "b"), True, Path("x.npz"))
    assert make("W(normalise=None)", PARTS) == Weighting(normalise=None)


def test_each_build_makes_a_new_object() -> None:
    expression = parse("KD() * 0.5", TERMS, key="objective")
    first, second = expression.build(), expression.build()
    assert isinstance(first, Objective)
    assert first is not second


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("KD(temp=4)", ['KD has no argument "temp"', "it takes T (default 4.0)"]),
        ("CE(smothing=0.1)", ["did you mean 'smoothing'"]),
        ("KD(1, 2)", ["KD takes at most 1 arguments without a name, got 2"]),
        ("KD(1, T=2)", ["KD was given its argument T twice"]),
        ("KD(T=1, T=2)", ["given an argument twice"]),
        ('KD(T="hot")', ["KD's argument T takes a number, got 'hot'"]),
        ("KD(T=True)", ["takes a number, got True"]),
        ("KD(T=-1)", ["KD: T must be above 0"]),
        ("KDD()", ["no term called 'KDD'", "did you mean 'KD'", "`limbeck list terms` shows all"]),
        ("EKFAC()", ["EKFAC is a solver; expected a term"]),
        ("KD", ["write KD with its brackets, KD()"]),
        ("KD(", ["can't read 'KD('"]),
        ("", ["can't read ''"]),
        ("0.5", ["expected a term"]),
        ("KD() + 1", ["two terms are added"]),
        ("KD() * CE()", ["a term is multiplied by a number"]),
        ("KD() * KD", ["brackets"]),
        ("KD() - CE()", ["has no place here"]),
        ("KD() / 2", ["has no place here"]),
        ("'a' * 9999999999", ["can't be combined"]),
        ("10**10", ["has no place here"]),
        ("KD() * 1e999", ["has no place here"]),
        ("KD() * (" + "9" * 18 + " * " + "9" * 18 + ")", ["a number is too large"]),
        ("KD() * " + "9" * 500, ["has no place here"]),
        ("KD(*[1])", ["* and ** have no place here"]),
        ("KD(**{'T': 1})", ["* and ** have no place here"]),
        ("KD.__class__()", ["has no place here"]),
        ("KD().T", ["has no place here"]),
        ("().__class__.__bases__[0]", ["has no place here"]),
        ("__import__('os').system('true')", ["has no place here"]),
        ("__import__('os')", ["no term called '__import__'"]),
        ("(lambda: 1)()", ["has no place here"]),
        ("[KD() for _ in (1,)]", ["has no place here"]),
        ("f'{1}'", ["has no place here"]),
        ("(x := KD())", ["has no place here"]),
        ("KD()" + " + KD()" * 60, ["nested more than 40 deep"]),
        ("(" * 300 + ")" * 300, ["can't read"]),
        ("-" * 900 + "1", ["nested more than 40 deep"]),
        ("KD(" * 200 + ")" * 200, ["nested more than 40 deep"]),
        ("x" * 2000, ["at most 1000 characters"]),
        ("KD()\0", ["can't read"]),
        ("\ud800", ["can't read"]),
    ],
)
def test_mistakes_are_named(text: str, parts: list[str]) -> None:
    said = message(text)
    for part in parts:
        assert part in said


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ('W(normalise="zscor")', ["takes 'std' or 'zscore' or None, got 'zscor'"]),
        ("W(solver=KD())", ["W's argument solver takes a Solver, got KD(T=4)"]),
        ("W(solver=3)", ["takes a Solver, got 3"]),
        ("W(solver=W())", ["no argument called 'W'"]),
        ("W(refresh=2.5)", ["takes a whole number, got 2.5"]),
        ("W(refresh=True)", ["takes a whole number, got True"]),
        ("W(warm=1)", ["takes True or False, got 1"]),
        ("W(sizes=[1, 'a'])", ["takes a list in square brackets, each part a whole number"]),
        ("W(names='abc')", ["takes a list in square brackets, each part a text"]),
        ("W(refresh=10**10)", ["has no place here"]),
        ("Needy()", ["Needy needs its argument a; it takes a, b (default 0)"]),
        ("W() + W()", ["only terms can be added"]),
        ("Broken()", ["Broken can't be made from these arguments"]),
        ("Broken('value')", ["Broken can't be made from these arguments"]),
    ],
)
def test_mistakes_in_arguments_are_named(text: str, parts: list[str]) -> None:
    said = message(text, PARTS)
    for part in parts:
        assert part in said


def test_an_error_of_the_constructor_keeps_its_kind() -> None:
    with pytest.raises(MissingExtraError, match=r"^objective: Broken needs limbeck\[x\]\.$"):
        make("Broken('extra')", PARTS)


def test_own_code_needs_leave() -> None:
    names = Names("source", {"Python": python})
    assert "--allow-python" in message('Python("a:b")', names)
    assert make('Python("a:b", n=3)', names, allow_python=True) == ("a:b", {"n": 3})


WORDS = "KD CE W EKFAC T ( ) = , + * ** - . __class__ 1 0.5 'a' [ ] { } : lambda for in None True damping solver 1e400 ~ not \\"
words = st.sampled_from([*WORDS.split(), " ", "\n"])


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=60) | st.lists(words, max_size=25).map("".join))
def test_any_text_is_made_or_refused(text: str) -> None:
    for names, kinds in ((TERMS, (KD, CE, Objective)), (PARTS, (Weighting, Needy))):
        made = made_or_refused(text, names)
        assert isinstance(made, (*kinds, UsageError))


def made_or_refused(text: str, names: Names) -> object:
    try:
        return parse(text, names, key="k").build()
    except UsageError as error:
        return error


@given(
    st.sampled_from(["KD()", "KD", "W()", "''", "1", "[]"]),
    st.sampled_from(["__class__", "T", "forward", "real"]),
    st.sampled_from(["", "()"]),
)
def test_no_attribute_is_ever_read(before: str, name: str, after: str) -> None:
    for text in (f"{before}.{name}{after}", f"KD(T={before}.{name}{after})", f"KD() * {before}.{name}{after}"):
        with pytest.raises(UsageError):
            make(text)
