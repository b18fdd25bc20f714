"""Errors that a user can mend. Each message is one sentence: who, what was expected, what came, what to do."""

from collections.abc import Iterable
from difflib import get_close_matches


class LimbeckError(Exception):
    """Something the user can mend. The command line prints its message and no traceback.

    Attributes:
        exit_code: What the command line returns: 2 when the user's words are off, 1 when the run itself failed.
    """

    exit_code = 1


class UsageError(LimbeckError, ValueError):
    """A name, an argument or a value is not one that can be taken."""

    exit_code = 2


class ShapeError(UsageError):
    """Two tensors or two parts do not fit together."""


class DataError(UsageError):
    """The data cannot be trained on: missing file, NaN, a label out of range, an empty class."""


class UnsupportedModelError(UsageError):
    """A model cannot be handled; the message names every reason at once."""


class MissingExtraError(UsageError, ImportError):
    """An optional package is needed; the message says which extra brings it."""


class RunError(LimbeckError):
    """The run failed: the folder exists, the disk is full, the loss became NaN, a checkpoint is damaged."""


def nearest(word: str, choices: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the nearest of the choices, or an empty string when none is near."""
    by_lower = {choice.lower(): choice for choice in choices}
    found = get_close_matches(word.lower(), by_lower, n=1, cutoff=0.6)
    return f"; did you mean '{by_lower[found[0]]}'?" if found else ""
