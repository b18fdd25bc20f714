"""How a part says what it is: as it would be typed, so that two settings that differ never read alike."""

from inspect import signature


def shown(part: object, *always: str, **elsewhere: object) -> str:
    """`Name(argument=value, ...)`, see `arguments`."""
    return f"{type(part).__name__}({arguments(part, *always, **elsewhere)})"


def arguments(part: object, *always: str, **elsewhere: object) -> str:
    """The arguments that a part was made with, of which those that have their default are left out.

    Args:
        part: Any object; an argument is read from the attribute of its name.
        always: Arguments that are said in any case.
        elsewhere: The values of those that no attribute has.

    >>> from dataclasses import dataclass
    >>> @dataclass(repr=False)
    ... class Squash:
    ...     gain: float = 1.0
    ...     clamp: float = 4.0
    >>> arguments(Squash(), "gain"), arguments(Squash(clamp=2.5))
    ('gain=1', 'clamp=2.5')
    """
    found: list[str] = []
    for name, parameter in signature(type(part)).parameters.items():
        value = elsewhere.get(name, getattr(part, name, parameter.default))
        if name in always or value != parameter.default:
            inner = not found and not isinstance(value, _PLAIN)  # what is made of arguments itself goes first, without a name
            found.append(said(value) if inner else f"{name}={said(value)}")
    return ", ".join(found)


def said(value: object) -> str:
    """A value as one would type it: 1 for 1.0, and as many digits as it has, up to twelve.

    >>> said(4.0), said(0.1234567), said((0.5, 0.1)), said("layer?")
    ('4', '0.1234567', '(0.5, 0.1)', "'layer?'")
    """
    if isinstance(value, float):
        return f"{value:.12g}"
    if isinstance(value, tuple):
        return f"({', '.join(map(said, value))}{',' if len(value) == 1 else ''})"
    if isinstance(value, list):
        return f"[{', '.join(map(said, value))}]"
    return repr(value)


_PLAIN = (bool, int, float, str, tuple, list, type(None))
