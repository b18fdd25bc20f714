"""Arguments against a constructor's signature: unknown, too many, missing, of another type. Knows nothing of recipes."""

import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from limbeck.core.errors import nearest

PLAIN: Mapping[object, tuple[tuple[type, ...], str]] = {
    bool: ((bool,), "True or False"),
    int: ((int,), "a whole number"),
    float: ((int, float), "a number"),
    str: ((str,), "a text in quotes"),
    Path: ((str, Path), "a path in quotes"),
    type(None): ((type(None),), "None"),
}
WRITTEN = (int, float, str, list, tuple, dict, type(None))
LONGEST = 60


class MisfitError(Exception):
    """An argument that does not fit; the message goes on where the constructor's name ends."""


def bind(
    maker: Callable[..., object], args: Sequence[object], kwargs: Mapping[str, object], *, built: bool = False
) -> inspect.BoundArguments:
    """Lay the arguments on the signature and check the type of each where its annotation is plain.

    Args:
        maker: A class or function.
        args: Positional arguments.
        kwargs: Arguments by name.
        built: All values are what the constructor will get; if not, only literals are checked against their annotations.

    Raises:
        MisfitError: The arguments don't fit.
    """
    signature = inspect.signature(maker)
    _check_names(signature, args, kwargs)
    bound = signature.bind(*args, **kwargs)
    hints = typing.get_type_hints(maker.__init__ if isinstance(maker, type) else maker)  # type: ignore[misc]  # of the class itself
    for name, value in bound.arguments.items():
        spread = signature.parameters[name].kind in {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}
        if name not in hints or spread or not (built or _written(value)):
            continue
        if not _fits(value, hints[name]):
            raise MisfitError(f"'s argument {name} takes {_words(hints[name])}, got {_shown(value)}")
        bound.arguments[name] = _turned(value, hints[name])
    return bound


def _written(value: object) -> bool:
    """Whether a value is a literal through and through; a list of calls is known once they are made."""
    return all(map(_written, value)) if isinstance(value, list | tuple) else isinstance(value, WRITTEN)


def _check_names(signature: inspect.Signature, args: Sequence[object], kwargs: Mapping[str, object]) -> None:
    parameters = signature.parameters.values()
    kinds = {parameter.kind for parameter in parameters}
    by_place = [p.name for p in parameters if p.kind in {p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD}]
    by_name = {p.name: p for p in parameters if p.kind in {p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY}}
    for name in kwargs:
        if name not in by_name and inspect.Parameter.VAR_KEYWORD not in kinds:
            raise MisfitError(f' has no argument "{name}"; it takes {_takes(signature)}{nearest(name, by_name)}')
    if len(args) > len(by_place) and inspect.Parameter.VAR_POSITIONAL not in kinds:
        raise MisfitError(
            f" takes at most {len(by_place)} arguments without a name, got {len(args)}; it takes {_takes(signature)}"
        )
    given = set(by_place[: len(args)])
    if twice := given & set(kwargs):
        raise MisfitError(f" was given its argument {min(twice)} twice")
    required = [p.name for p in parameters if p.default is p.empty and p.kind not in {p.VAR_POSITIONAL, p.VAR_KEYWORD}]
    if missing := [name for name in required if name not in given and name not in kwargs]:
        raise MisfitError(f" needs its argument {missing[0]}; it takes {_takes(signature)}")


def _takes(signature: inspect.Signature) -> str:
    parts = [
        f"{'*' * (p.kind is p.VAR_POSITIONAL) or '**' * (p.kind is p.VAR_KEYWORD)}{p.name}"
        + ("" if p.default is p.empty else f" (default {p.default!r})")
        for p in signature.parameters.values()
    ]
    return ", ".join(parts) or "none"


def _choices(hint: object) -> tuple[object, ...] | None:
    """The members of a union, or None for anything else."""
    return typing.get_args(hint) if typing.get_origin(hint) in {typing.Union, types.UnionType} else None


def _fits(value: object, hint: object) -> bool:
    """Whether a value is what the annotation says; an annotation that is not plain takes everything."""
    members = _choices(hint)
    if members is not None:
        return any(_fits(value, member) for member in members)
    if hint is None:
        return value is None
    if hint in PLAIN:
        return isinstance(value, PLAIN[hint][0]) and (hint is bool or not isinstance(value, bool))
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return any(value == choice and type(value) is type(choice) for choice in inner)
    if origin in {list, tuple, Sequence} and inner:
        return _fits_sequence(value, origin, inner)
    if isinstance(hint, type):
        try:
            return isinstance(value, hint)
        except TypeError:  # a Protocol that can't be asked while running
            return not isinstance(value, WRITTEN)
    return True


def _fits_sequence(value: object, origin: object, inner: tuple[object, ...]) -> bool:
    if not isinstance(value, list | tuple):
        return False
    if origin is tuple and inner[-1] is not Ellipsis:
        return len(value) == len(inner) and all(map(_fits, value, inner))
    return all(_fits(part, inner[0]) for part in value)


def _turned(value: object, hint: object) -> object:
    """A path as a `Path` and a list as a tuple, where the annotation leaves nothing else."""
    members = [member for member in _choices(hint) or (hint,) if member is not type(None)]
    if isinstance(value, str) and members == [Path]:
        return Path(value)
    if isinstance(value, list) and len(members) == 1 and typing.get_origin(members[0]) is tuple:
        return tuple(value)
    return value


def _words(hint: object) -> str:
    """An annotation in words, for messages."""
    members = _choices(hint)
    if members is not None:
        return " or ".join(_words(member) for member in members)
    if hint is None or hint in PLAIN:
        return PLAIN[type(None) if hint is None else hint][1]
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return " or ".join(repr(choice) for choice in inner)
    if origin in {list, tuple, Sequence} and inner:
        return f"a list in square brackets, each part {_words(inner[0])}"
    return f"{'an' if hint.__name__[0] in 'AEIOU' else 'a'} {hint.__name__}" if isinstance(hint, type) else str(hint)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."
