"""Checks a source before anything is trained on it. Knows nothing of splits or models."""

import torch
from torch import Tensor

from limbeck.core.batch import UNLABELLED
from limbeck.core.errors import DataError
from limbeck.data.source import InMemory, Source

_CHUNK = 4096  # rows that are looked at together
_PROBE = 64  # rows of a lazily read source that are looked at before the run; the loader checks every batch


def check(source: Source) -> None:
    """See that a source can be trained on: every label, and every input that is in memory.

    Args:
        source: What to look at. A source that reads lazily is probed in 64 rows; its batches are checked as they are read.

    Raises:
        DataError: NaN or infinite inputs, labels out of range, an empty class, fewer rows than classes, lengths that differ.
    """
    missing = [word for word in ("name", "kind", "classes", "labels", "input_shape") if not hasattr(source, word)]
    if missing:
        raise DataError(f"{type(source).__name__}: a Source must set {', '.join(missing)}.")
    name = source.name
    if source.kind != "language" and len(source) and not bool(source.labelled.any()):
        raise DataError(f"{name}: no row has a label; teacher, query set and test need some of each class.")
    if source.outputs < 2:
        what = "tokens in the vocabulary" if source.kind == "language" else "classes"
        raise DataError(f"{name}: at least 2 {what} are needed, got {source.outputs}.")
    if not len(source):
        raise DataError(f"{name}: there are no rows; give at least one.")
    check_labels(source.labels, source, "labels")
    if source.truth is not None:
        if len(source.truth) != len(source):
            raise DataError(f"{name}: {len(source)} labels and {len(source.truth)} true labels; give one for each sample.")
        check_labels(source.truth, source, "true labels")
    if source.kind != "language":
        _check_classes(source)
    _check_rows(source)
    rows = torch.arange(len(source))
    if not isinstance(source, InMemory):
        rows = rows[:: max(1, len(rows) // _PROBE)][:_PROBE]
    for part in torch.split(rows, _CHUNK):
        inputs, mask = source.read(part)
        check_inputs(source, part, inputs)
        if source.kind == "language" and mask is not None and not bool(mask.any(1).all()):
            row = int(part[(~mask.any(1)).nonzero()[0, 0]])
            raise DataError(f"{name}: row {row} has no token that counts in the loss; leave it out, or keep longer rows.")


def _check_classes(source: Source) -> None:
    """See that every class has rows.

    Raises:
        DataError: One has none, or there are fewer rows than classes.
    """
    name, count = source.name, len(source.classes)
    if len(source) < count:
        raise DataError(f"{name}: {len(source)} rows are fewer than the {count} classes; give more data.")
    sizes = torch.bincount(source.labels[source.labelled], minlength=count)
    if bool((sizes == 0).any()):
        empty = int((sizes == 0).nonzero()[0])
        blank, do = int((~source.labelled).sum()), "leave it out and number the others from 0"
        if empty == 0 and blank:
            do = (
                f"number the classes from 0, since the {UNLABELLED} of {blank} rows is no class, but says that a row has no label"
            )
        raise DataError(f"{name}: class '{source.classes[empty]}' (number {empty}) has no rows; {do}.")


def check_labels(labels: Tensor, source: Source, what: str) -> None:
    """See that labels are class numbers of the source, or -1; for language token ids, also where they do not count.

    Raises:
        DataError: They are not.
    """
    shape = tuple(source.input_shape) if source.kind == "language" else ()
    if labels.dtype != torch.int64 or labels.shape[1:] != shape or not labels.dim():
        wanted = ", ".join(["N", *map(str, shape)])
        raise DataError(
            f"{source.name}: {what} must be int64 of shape [{wanted}], got {labels.dtype} of shape {list(labels.shape)}."
        )
    top = source.outputs - 1
    wrong = ((labels < 0) & source.labelled.view(-1, *[1] * (labels.dim() - 1)) | (labels > top)).nonzero()
    if len(wrong):
        value, row = int(labels[tuple(wrong[0])]), int(wrong[0, 0])
        raise DataError(f"{source.name}: {what} must lie in 0 to {top}, got {value} in row {row}.")


def check_inputs(source: Source, rows: Tensor, inputs: Tensor) -> None:
    """See that inputs that were read are of the stated shape, finite, and within the vocabulary.

    Raises:
        DataError: They are not; the message names the first bad row.
    """
    if inputs.shape != (len(rows), *source.input_shape):
        raise DataError(
            f"{source.name}: a sample has shape {list(source.input_shape)}, but reading gave {list(inputs.shape[1:])}."
        )
    if source.vocabulary is not None:
        if not bool(((inputs >= 0) & (inputs < source.vocabulary)).all()):
            row = _first(rows, (inputs < 0) | (inputs >= source.vocabulary))
            raise DataError(f"{source.name}: token ids must lie in 0 to {source.vocabulary - 1}, row {row} has another.")
    elif not bool(inputs.isfinite().all()):
        row = _first(rows, ~inputs.isfinite())
        raise DataError(f"{source.name}: row {row} has NaN or infinite values; mend or remove it.")


def _first(rows: Tensor, wrong: Tensor) -> int:
    return int(rows[wrong.flatten(1).any(1).nonzero()[0, 0]])


def _check_rows(source: Source) -> None:
    """See that a fixed test split and a named query set are rows of the source, each once, and apart from each other.

    Raises:
        DataError: They are not.
    """
    for what, rows in {"test rows": source.test_rows, "query rows": source.query_rows}.items():
        if rows is None:
            continue
        if not len(rows):
            raise DataError(f"{source.name}: the {what} are named, but there are none; name at least one.")
        if int(rows.min()) < 0 or int(rows.max()) >= len(source) or len(torch.unique(rows)) < len(rows):
            raise DataError(f"{source.name}: the {what} must be different rows from 0 to {len(source) - 1}.")
        blank = rows[~source.labelled[rows]]
        if len(blank):
            raise DataError(
                f"{source.name}: row {int(blank[0])} is one of the {what} and has no label; give it one, or train on it."
            )
    if source.test_rows is not None and source.query_rows is not None:
        both = source.test_rows[torch.isin(source.test_rows, source.query_rows)]
        if len(both):
            raise DataError(
                f"{source.name}: row {int(both[0])} is in the test split and in the query set; the query set is for training."
            )
