"""Opens files that a user names, and says in one sentence what is wrong with them. Nothing that is opened can run code."""

import zlib
from collections.abc import Mapping
from pathlib import Path
from zipfile import BadZipFile, is_zipfile

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from limbeck.core.batch import UNLABELLED
from limbeck.core.errors import DataError, nearest


def existing(path: str | Path, who: str, *, folder: bool = False) -> Path:
    """The path when it is there.

    Raises:
        DataError: There is nothing, or a folder where a file is wanted, or the other way round.
    """
    found, wanted = Path(path).expanduser(), "folder" if folder else "file"
    if not found.exists():
        parent = found.parent
        hint = nearest(found.name, [other.name for other in parent.iterdir()]) if parent.is_dir() else ""
        place = "" if parent.is_dir() else f"; the folder '{parent}' does not exist either"
        raise DataError(f"{who}: there is no {wanted} '{path}'{place}{hint}" + ("" if hint else "."))
    if found.is_dir() != folder:
        raise DataError(f"{who}: '{path}' is a {'file' if folder else 'folder'}; name a {wanted}.")
    return found


def read_npz(path: str | Path, who: str) -> dict[str, NDArray[np.generic]]:
    """All arrays of an .npz file, by name. Pickled objects are refused.

    Raises:
        DataError: The file is missing, damaged, no .npz file, or holds Python objects.
    """
    file = existing(path, who)
    if not is_zipfile(file):
        raise DataError(f"{who}: '{path}' is no .npz file or is damaged; write it with numpy.savez.")
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (BadZipFile, OSError, EOFError, zlib.error) as error:
        raise DataError(f"{who}: '{path}' is no .npz file or is damaged; write it with numpy.savez.") from error
    except ValueError as error:
        raise DataError(f"{who}: '{path}' holds Python objects, which are never loaded; store plain arrays.") from error


def entry(arrays: Mapping[str, NDArray[np.generic]], key: str, path: str | Path, who: str) -> NDArray[np.generic]:
    """The array of this name.

    Raises:
        DataError: There is none.
    """
    if key not in arrays:
        raise DataError(f"{who}: '{path}' has no '{key}', only {', '.join(sorted(arrays))}{nearest(key, arrays) or '.'}")
    return arrays[key]


def as_labels(values: NDArray[np.generic] | Tensor, who: str, *, missing: bool = False) -> Tensor:
    """Class numbers as int64 [N].

    Args:
        values: Numbers, one per sample.
        who: Begins the message.
        missing: Whether -1 may stand for a label that a sample has not.

    Raises:
        DataError: They are not one number per sample, not whole, too low or not finite.
    """
    array = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    if array.dtype.kind == "b":
        array = array.astype(np.int64)
    if array.ndim != 1 or array.dtype.kind not in "iuf":
        raise DataError(f"{who} must be one class number per sample, got {array.dtype} of shape {list(array.shape)}.")
    bad = np.flatnonzero(~np.isfinite(array) | (array != np.floor(array)) | (array < (UNLABELLED if missing else 0)))
    if len(bad):
        none = ", and write -1 where there is no label" if missing else ""
        raise DataError(
            f"{who} must be whole numbers from 0, got {array[bad[0]]} in row {bad[0]}; number the classes from 0{none}."
        )
    return torch.from_numpy(array.astype(np.int64))
