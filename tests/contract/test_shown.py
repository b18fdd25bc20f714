"""The text of a part, over the whole catalogue: two settings that differ never read alike."""

import inspect
import typing
from collections.abc import Iterator
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from limbeck.catalogue import Row, rows
from limbeck.core.errors import LimbeckError
from limbeck.core.user_code import DOOR
from limbeck.influence.curvature.ekfac import EKFAC
from limbeck.influence.curvature.kfac import KFAC
from limbeck.llm.rewards import LastNumber, SameText
from limbeck.losses.labels.ce import CE
from limbeck.losses.logits.kd import KD
from limbeck.training.steps.student import Student
from limbeck.weighting.uniform import Uniform

KINDS = ("terms", "weightings", "solvers", "balancers", "mixtures", "steps", "averages", "transforms", "rewards")
GIVEN: dict[str, dict[str, Any]] = {
    "LastLayers": {"solver": EKFAC()},
    "Shuffled": {"inner": Uniform()},
    "GRPO": {"reward": LastNumber()},
    "WithText": {"step": Student()},
}
"""What cannot be left out."""
OTHERS: dict[str, list[Any]] = {
    "term": [KD(T=3), KD(T=5)],
    "solver": [KFAC()],
    "preconditioner": [KFAC()],
    "inner": [],
    "step": [],
    "reward": [SameText()],
    "loss": [CE() * 0.5],
    "objective": [CE() * 0.5],
    "normalise": ["zscore", "rms", "median"],
    "refresh": [7, "epochs:5"],
    "turns": [3],
    "way": ["carried", "separate", "captured"],
    "source": ["teacher", "both"],
    "order": ["first"],
    "text": ["plain.txt"],
    "tau": [(0.7, 0.1), (0.5, 0.2)],
    "shared": [[(0, 1)], [(1, 0)]],
    "shares": [[0.2, 0.8], [0.5, 0.5]],
    "temperatures": [(2.0,), (2.0, 3.0)],
    "head": ["mlp"],
    "truth": ["target"],
    "protect": ["KD"],
}
"""Other values of arguments whose type does not say them."""
NO_SETTING = {"validation"}
"""What is handed in and is no setting."""
MADE = [row for row in rows(*KINDS) if row.name not in {DOOR, "Chain", "FromFile", "ULD"}]


def others(name: str, hint: Any, default: Any) -> Iterator[Any]:
    """Other values that an argument may take."""
    inner = get_args(hint) if default is None else ()
    if get_origin(hint) is Literal:
        yield from (choice for choice in get_args(hint) if choice != default)
    elif isinstance(default, bool):
        yield not default
    elif isinstance(default, float) or float in inner:
        start = 0.8 * (default or 0.5)
        yield from (start, start + 1e-7)
    elif isinstance(default, int) or int in inner:
        yield (default or 3) + 1
    elif name in OTHERS:
        yield from (value for value in OTHERS[name] if value != default)
    elif isinstance(default, str) or str in inner:
        yield "other"
    else:
        assert set(get_args(hint)) <= {NoneType}, f"say in OTHERS what else {name} may be"


def alike(row: Row) -> Iterator[str]:
    """The arguments of a method that its text does not tell apart, one at a time; floats to the seventh digit."""
    maker: Any = row.resolve()
    given = GIVEN.get(row.name, {})
    hints = typing.get_type_hints(maker.__init__)
    for name, parameter in inspect.signature(maker).parameters.items():
        if name in NO_SETTING:
            continue
        texts, tried = [repr(maker(**given))], 0
        for value in others(name, hints.get(name), parameter.default):
            try:
                texts.append(repr(maker(**{**given, name: value})))
            except LimbeckError:
                continue  # not for this one, or not without another argument
            tried += 1
        if not tried and name not in given:
            yield f"{row.name}: no other value of {name} was taken; name one in OTHERS"
        if len(set(texts)) < len(texts) or not texts[0].startswith(f"{row.name}("):
            yield f"{row.name}: {name} is not in {texts}"


def test_settings_that_differ_do_not_read_alike() -> None:
    assert len(MADE) > 90
    assert [line for row in MADE for line in alike(row)] == []
