"""Checks of arguments. Those of numbers return the value, so that it reads `self.T = positive(T, "KD: T")`."""

import math

from limbeck.core.errors import UsageError


def finite(value: float, who: str) -> float:
    """The value as a float when it is a finite number.

    Raises:
        UsageError: The value is no number, NaN or infinite.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise UsageError(f"{who} must be a finite number, got {value!r}.")
    return float(value)


def positive(value: float, who: str) -> float:
    """The value when it is above 0.

    Raises:
        UsageError: The value is not a finite number above 0.
    """
    if finite(value, who) <= 0:
        raise UsageError(f"{who} must be above 0, got {value!r}.")
    return float(value)


def not_negative(value: float, who: str) -> float:
    """The value when it is 0 or above.

    Raises:
        UsageError: The value is not a finite number of at least 0.
    """
    if finite(value, who) < 0:
        raise UsageError(f"{who} must be 0 or above, got {value!r}.")
    return float(value)


def fraction(value: float, who: str) -> float:
    """The value when it lies in [0, 1].

    Raises:
        UsageError: The value is not a finite number in [0, 1].
    """
    if not 0 <= finite(value, who) <= 1:
        raise UsageError(f"{who} must lie in [0, 1], got {value!r}.")
    return float(value)


def proper_fraction(value: float, who: str) -> float:
    """The value when it lies strictly between 0 and 1.

    Raises:
        UsageError: The value is not a finite number in (0, 1).
    """
    if not 0 < finite(value, who) < 1:
        raise UsageError(f"{who} must lie strictly between 0 and 1, got {value!r}.")
    return float(value)


def whole(value: int, who: str, *, least: int = 1) -> int:
    """The value when it is a whole number of at least `least`.

    Raises:
        UsageError: The value is no whole number, or too small.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UsageError(f"{who} must be a whole number of at least {least}, got {value!r}.")
    return value


def one_of(value: str, choices: tuple[str, ...], who: str) -> str:
    """The value when it is one of the choices.

    Raises:
        UsageError: The value is another one.
    """
    if value not in choices:
        raise UsageError(f"{who} must be one of {', '.join(choices)}, got {value!r}.")
    return value


def of_kind(value: object, kind: type, who: str, do: str) -> None:
    """See that the value is an instance of this class.

    Args:
        value: What came.
        kind: The class that is expected.
        who: Whose value it is.
        do: What to do where it is another.

    Raises:
        UsageError: It is another thing; the class itself in place of an instance is one.
    """
    if not isinstance(value, kind):
        came = f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__
        article = "an" if kind.__name__[0] in "AEIOU" else "a"
        raise UsageError(f"{who} must be {article} {kind.__name__}, got {came}; {do}.")
