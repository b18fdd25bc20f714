"""The one door to a user's own code: a function named as "module:function". Who opens it has asked whether it may."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

from limbeck.core.errors import UsageError, nearest

DOOR = "Python"
"""What the door is called in recipes, whatever stands behind it: a term, a model, data."""


def user_function(target: str, who: str) -> Callable[..., object]:
    """The function that "module:function" names.

    Raises:
        UsageError: The words have another form, or there is no such module or function.
    """
    module, _, function = target.partition(":")
    if not all(part.isidentifier() for part in [*module.split("."), function]):
        raise UsageError(f"{who}: '{target}' must read 'module:function'.")
    with _current_folder_first():
        try:
            loaded = import_module(module)
        except ImportError as error:
            raise UsageError(f"{who}: module '{module}' cannot be imported: {error}.") from error
    found = getattr(loaded, function, None)
    if not callable(found):
        raise UsageError(f"{who}: module '{module}' has no function '{function}'{nearest(function, vars(loaded)) or '.'}")
    return found  # type: ignore[no-any-return]


@contextmanager
def _current_folder_first() -> Iterator[None]:
    """Imports look into the current folder first, as `python -m` does and an installed command does not."""
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)
