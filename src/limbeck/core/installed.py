"""What other installed packages offer: the one place that reads entry points. Their code runs when asked for, not before."""

import warnings
from collections.abc import Iterator
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path


def offered(group: str) -> Iterator[tuple[str, object]]:
    """(package, object) for every entry point of the group, packages in alphabetical order.

    Only what has been installed counts: a package's record that lies in the current folder is passed over, since a folder from
    elsewhere must not run code by being entered. An entry point that fails is left out, with one warning.
    """
    for entry in sorted(entry_points(group=group), key=lambda entry: (_package(entry), entry.name)):
        if _lies_here(entry):
            continue
        try:
            found = entry.load()
        except (Exception, SystemExit) as error:
            why = f"{type(error).__name__}: {error}"
            warnings.warn(f"the package {_package(entry)} could not be loaded ({why}); its methods were left out.", stacklevel=2)
        else:
            yield _package(entry), found


def _package(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist is not None else entry.module


def _lies_here(entry: EntryPoint) -> bool:
    return entry.dist is not None and Path(str(entry.dist.locate_file(""))).resolve() == Path.cwd()
