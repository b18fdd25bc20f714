"""Plain arrays from an .npz file, and arrays that a user's own function returns."""

from collections.abc import Mapping
from pathlib import Path
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from limbeck.core.errors import DataError
from limbeck.data.files import as_labels, entry, read_npz
from limbeck.data.noise import noisy
from limbeck.data.source import InMemory, Scaling, expression
from limbeck.data.validity import check

Found = dict[str, NDArray[np.generic]]
_CHANNELS = (1, 3)
_PER_ROW = ("inputs", "labels", "true_labels", "mask", "is_query")


@final
class Arrays(InMemory):
    """Samples from an .npz file of plain arrays; pickled objects are never loaded.

    The file holds `inputs` and `labels`, with `is_test` (0 and 1) where a test split is fixed; or `train_inputs`, `train_labels`
    and, for a fixed test split, `test_inputs`, `test_labels`. More may stand beside: `true_labels` (or `train_`, `test_`),
    `is_query` (0 and 1: the trusted query set), `class_names`, and for token ids `mask` and `vocabulary` (one number).

    A training row whose label is -1 has none: only terms that need no labels learn from it.

    What the inputs are follows from their shape and type. uint8 [N, H, W], [N, H, W, C] or [N, C, H, W] with C of 1 or 3 are
    images: read as float32 [C, H, W], divided by 255 and normalised by each channel's mean and standard deviation over the rows
    outside the fixed test split. Float images [N, H, W], [N, C, H, W] or [N, H, W, C] and vectors [N, F] are taken as they are.
    Whole numbers [N, L] are token ids where `mask` or `vocabulary` stands beside them, else vectors.

    Args:
        path: The .npz file.
        label_noise: Share of the labels outside the test split that are flipped, in [0, 1).
        noise: How: "symmetric", "pair_flip", "instance_dependent" or "human:<file>:<key>".
        seed: Seed of the noise.

    A missing file or key, lengths that differ, NaN, and labels out of range are a DataError.
    """

    def __init__(self, path: str, label_noise: float = 0.0, *, noise: str = "symmetric", seed: int = 0) -> None:
        name = expression("Arrays", path, label_noise=label_noise, noise=noise, seed=seed)
        found = _joined(read_npz(path, name), path, name)
        labels = as_labels(entry(found, "labels", path, name), f"{name}: labels", missing=True)
        truth = as_labels(found["true_labels"], f"{name}: true_labels", missing=True) if "true_labels" in found else None
        mask = torch.from_numpy(found["mask"].astype(bool)) if "mask" in found else None
        inputs, vocabulary = _tokens_or_floats(found, path, name)
        classes = tuple(str(word) for word in found["class_names"]) if "class_names" in found else None
        super().__init__(inputs, labels, classes=classes, truth=truth, name=name, vocabulary=vocabulary, mask=mask)
        self.test_rows, self.query_rows = _marked(found, "is_test", self), _marked(found, "is_query", self)
        prepare(self)
        self.labels, self.truth = noisy(self, label_noise, noise, seed=seed)


def prepare(source: InMemory) -> None:
    """Normalise images that are bytes, and check the source."""
    if source.inputs.dtype == torch.uint8:
        source.scaling = Scaling.of(source.inputs, source.open_rows)
    check(source)


def as_inputs(values: NDArray[np.generic] | Tensor, who: str) -> Tensor:
    """Images as [N, C, H, W], uint8 or float32, and vectors as float32 [N, F].

    Raises:
        DataError: They have another number of axes, or are no numbers.
    """
    array = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    if array.dtype.kind not in "biuf" or array.ndim not in (2, 3, 4) or not array.size:
        raise DataError(
            f"{who}: inputs must be numbers of shape [N, F], [N, H, W], [N, C, H, W] or [N, H, W, C], "
            f"got {array.dtype} of shape {list(array.shape)}."
        )
    if array.ndim == 3:
        array = array[:, None]
    elif array.ndim == 4 and array.shape[1] not in _CHANNELS and array.shape[3] in _CHANNELS:
        array = array.transpose(0, 3, 1, 2)
    is_bytes = array.ndim == 4 and array.dtype == np.uint8
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and the check of the source names the row
        return torch.from_numpy(np.ascontiguousarray(array, dtype=np.uint8 if is_bytes else np.float32))


def _tokens_or_floats(found: Found, path: str | Path, who: str) -> tuple[Tensor, int | None]:
    """The inputs and, where they are token ids, how many different ones there can be.

    Raises:
        DataError: Token ids are not whole numbers [N, L], or the mask has another shape.
    """
    values = entry(found, "inputs", path, who)
    if not {"mask", "vocabulary"} & found.keys():
        return as_inputs(values, who), None
    if values.ndim != 2 or values.dtype.kind not in "iu" or not values.size:
        raise DataError(f"{who}: token ids must be whole numbers [N, L], got {values.dtype} of shape {list(values.shape)}.")
    if "mask" in found and found["mask"].shape != values.shape:
        raise DataError(f"{who}: mask {list(found['mask'].shape)} and token ids {list(values.shape)} differ in shape.")
    ids = torch.from_numpy(values.astype(np.int64))
    return ids, int(found["vocabulary"]) if "vocabulary" in found else int(ids.max()) + 1


def _marked(found: Found, key: str, source: InMemory) -> Tensor | None:
    """The rows that an array of 0 and 1 marks.

    Raises:
        DataError: It does not hold 0 or 1 for each row.
    """
    if key not in found:
        return None
    flags = as_labels(found[key], f"{source.name}: {key}")
    if len(flags) != len(source) or int(flags.max()) > 1:
        raise DataError(f"{source.name}: {key} must hold 0 or 1 for each of the {len(source)} rows.")
    return flags.nonzero().squeeze(1)


def _joined(found: Mapping[str, NDArray[np.generic]], path: str | Path, who: str) -> Found:
    """One array of each kind, with `is_test`, also where the file keeps training and test rows apart.

    Raises:
        DataError: An array is missing, or training and test rows differ in shape.
    """
    if "train_inputs" not in found:
        return dict(found)
    parts = [part for part in ("train", "test") if f"{part}_inputs" in found]
    joined = {key: array for key, array in found.items() if not key.startswith(("train_", "test_"))}
    for key in _PER_ROW:
        if key in ("inputs", "labels") or any(f"{part}_{key}" in found for part in parts):
            arrays = [entry(found, f"{part}_{key}", path, who) for part in parts]
            if any(other.shape[1:] != arrays[0].shape[1:] for other in arrays):
                raise DataError(f"{who}: train_{key} and test_{key} differ in the shape of a row.")
            joined[key] = np.concatenate(arrays)
    if "test" in parts:
        sizes = [len(found[f"{part}_inputs"]) for part in parts]
        joined["is_test"] = np.repeat([0, 1], sizes)
    return joined
