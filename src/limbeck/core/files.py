"""Files that are there whole or not at all."""

import os
from contextlib import suppress
from pathlib import Path

from limbeck.core.errors import RunError


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that it is there whole or not at all: write beside it, flush to the disk, rename.

    Raises:
        RunError: The disk is full or the folder cannot be written.
    """
    beside = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
        raise RunError(f"could not write {path}: {error.strerror or error}; nothing half-written was left behind.") from error
