"""Optional packages, asked for when a part that needs one is made."""

from importlib import import_module
from types import ModuleType

from limbeck.core.errors import MissingExtraError


def optional(module: str, extra: str, who: str) -> ModuleType:
    """The module of an optional package.

    Raises:
        MissingExtraError: It is not installed; the message says which extra brings it.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise MissingExtraError(f"{who} needs the package {module.split('.')[0]}: pip install limbeck[{extra}]") from error
