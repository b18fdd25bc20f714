"""Files that are there whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from limbeck.core.errors import RunError


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that it is there whole or not at all.

    Raises:
        RunError: The disk is full or the folder cannot be written.
    """
    with whole_file(path) as file:
        file.write(content)


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write to, which is there whole at the end or not at all: written beside, flushed to the disk, renamed.

    Raises:
        RunError: The disk is full or the folder cannot be written.
    """
    beside = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        raise RunError(f"could not write {path}: {error.strerror or error}; nothing half-written was left behind.") from error
    finally:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
