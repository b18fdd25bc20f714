"""Columns of a table as tensors: numbers standardised, words one-hot, labels numbered. Knows nothing of sources."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.json as pa_json
import pyarrow.parquet as pq
import torch
from torch import Tensor

from limbeck.core.batch import UNLABELLED
from limbeck.core.errors import DataError, nearest
from limbeck.data.files import as_labels, existing
from limbeck.data.source import numbers

if TYPE_CHECKING:
    Column: TypeAlias = pa.ChunkedArray[Any]

MOST_WORDS = 32  # words of a column that get a place of their own; rarer ones share the place "other"
_MISREAD = 0.9  # a share of numbers above this among many different words, and the others are taken for slips of the pen
_FREE_TEXT = 1000  # more different words than this, in more than half of the rows, and a column is taken for free text


@dataclass(frozen=True)
class Encoded:
    """Columns side by side.

    Args:
        values: float32 [N, F].
        names: What each of the F places stands for.
    """

    values: Tensor
    names: tuple[str, ...]


def read_table(path: str | Path, who: str) -> pa.Table:
    """The table in a parquet, CSV or JSON-lines file, told apart by the file's ending.

    Raises:
        DataError: The file is missing, of another kind, damaged or empty.
    """
    file = existing(path, who)
    try:
        if file.suffix == ".parquet":
            table = pq.read_table(file)
        elif file.suffix in (".csv", ".tsv"):
            table = pa_csv.read_csv(file, parse_options=pa_csv.ParseOptions(delimiter="\t" if file.suffix == ".tsv" else ","))
        elif file.suffix == ".jsonl":
            table = pa_json.read_json(file)
        else:
            raise DataError(f"{who}: '{path}' must end in .parquet, .csv, .tsv or .jsonl.")
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{who}: '{path}' cannot be read: {str(error).splitlines()[0]}") from error
    if not table.num_rows:
        raise DataError(f"{who}: '{path}' has no rows.")
    return table


def column(table: pa.Table, key: str, path: str | Path, who: str, *, gaps: bool = False) -> Column:
    """The column of this name.

    Args:
        table: Where it stands.
        key: Its name.
        path: What messages call the table.
        who: Begins the message.
        gaps: Whether cells may be empty.

    Raises:
        DataError: There is none, or it has empty cells that it may not have.
    """
    names = table.column_names
    if key not in names:
        raise DataError(f"{who}: '{path}' has no column '{key}', only {', '.join(names)}{nearest(key, names) or '.'}")
    found = table.column(key)
    if not gaps:
        _refuse_empty(found.is_null().to_pylist(), key, who)
    return found


def _refuse_empty(cells: list[bool], key: str, who: str) -> None:
    """See that no cell of a column is empty.

    Raises:
        DataError: One is.
    """
    if any(cells):
        count = f"{sum(cells)} empty cell{'s' if sum(cells) > 1 else ''}"
        raise DataError(f"{who}: column '{key}' has {count}, the first in row {cells.index(True)}; fill or remove them.")


def numbered(label: Column, truth: Column | None, who: str) -> tuple[Tensor, Tensor | None, tuple[str, ...]]:
    """Labels and true labels as int64 [N], and the class names.

    Words count in alphabetical order, numbers stay as they are. An empty cell is a row without a label, -1.

    Raises:
        DataError: A label is no whole number from 0.
    """
    if not _is_number(label.type):
        words, true_words = _words_or_gaps(label), None if truth is None else _words_or_gaps(truth)
        classes = tuple(sorted({*words, *(true_words or ())} - {""}))
        number = {name: i for i, name in enumerate(classes)} | {"": UNLABELLED}
        true = None if true_words is None else torch.tensor([number[word] for word in true_words])
        return torch.tensor([number[word] for word in words]), true, classes
    given, true = _class_numbers(label, f"{who}: labels"), None if truth is None else _class_numbers(truth, f"{who}: true labels")
    return given, true, numbers(who, given, true)


def _class_numbers(values: Column, who: str) -> Tensor:
    found = values.to_numpy()  # with empty cells floats, NaN where they are
    return as_labels(np.where(np.isnan(found), UNLABELLED, found) if values.null_count else found, who, missing=True)


def _words_or_gaps(values: Column) -> list[str]:
    """The words of a column, "" for a blank cell."""
    return [str(value) if str(value or "").strip() else "" for value in values.to_pylist()]


def domains(names: list[str]) -> tuple[Tensor, tuple[str, ...]]:
    """The domain of each row as int64 [N], and the names of the domains in alphabetical order."""
    known = tuple(sorted(set(names)))
    number = {name: i for i, name in enumerate(known)}
    return torch.tensor([number[name] for name in names]), known


def marked(flags: Column, who: str) -> Tensor:
    """The rows where a column of 0 and 1, or of false and true, says yes.

    Raises:
        DataError: The column holds anything else.
    """
    values = as_labels(flags.to_numpy(), who) if _is_number(flags.type) or pa.types.is_boolean(flags.type) else None
    if values is None or int(values.max()) > 1:
        raise DataError(f"{who} must hold 0 and 1, or false and true.")
    return values.nonzero().squeeze(1)


def is_numbering(values: Column) -> bool:
    """Whether a column numbers or names its rows: whole numbers that count on by 1, or words of which no two are the same."""
    if _is_word(values.type):
        return len(values) > MOST_WORDS and pc.count_distinct(values).as_py() == len(values)
    if not pa.types.is_integer(values.type) or len(values) <= MOST_WORDS:
        return False
    numbers = values.to_numpy()
    return bool((np.diff(numbers) == 1).all())


def encode(table: pa.Table, names: list[str], training: Tensor, path: str | Path, who: str) -> Encoded:
    """These columns side by side: numbers to mean 0 and deviation 1 over the rows outside a fixed test split, words one-hot.

    Raises:
        DataError: No column is left, or one holds neither numbers nor words, free text, empty cells, NaN or infinity.
    """
    parts = []
    for name in names:
        values = column(table, name, path, who)
        if _is_number(values.type) or pa.types.is_boolean(values.type):
            parts.append(_numbers(values, name, training, who))
        elif _is_word(values.type):
            parts.append(_one_hot(_words(values, name, who), name, training, who))
        else:
            raise DataError(
                f"{who}: column '{name}' holds {values.type}, neither numbers nor words; leave it out with ignore=['{name}']."
            )
    if not parts:
        raise DataError(f"{who}: no column but the label is left to learn from; give at least one.")
    return Encoded(torch.cat([part.values for part in parts], 1), tuple(name for part in parts for name in part.names))


def _numbers(values: Column, name: str, training: Tensor, who: str) -> Encoded:
    numbers = torch.from_numpy(np.array(pc.cast(values, pa.float64(), safe=False).to_numpy()))
    wrong = (~numbers.isfinite()).nonzero()
    if len(wrong):
        raise DataError(f"{who}: column '{name}' is {float(numbers[wrong[0]])} in row {int(wrong[0])}; mend or remove that row.")
    mean, std = numbers[training].mean(), numbers[training].std(correction=0)
    scaled = (numbers - mean) / (std if std > 0 else 1.0)
    return Encoded(scaled.float().unsqueeze(1), (name,))


def _one_hot(words: list[str], name: str, training: Tensor, who: str) -> Encoded:
    distinct = len(set(words))
    misread = [row for row, word in enumerate(words) if not _reads_as_number(word)]
    if distinct > MOST_WORDS and 0 < len(misread) < (1 - _MISREAD) * len(words):
        row = misread[0]
        raise DataError(f"{who}: column '{name}' holds numbers, but {words[row]!r} in row {row}; mend or remove that row.")
    if distinct > _FREE_TEXT and distinct > len(words) / 2:
        raise DataError(f"{who}: column '{name}' looks like free text; say text='{name}' or ignore=['{name}'].")
    counts = Counter(words[row] for row in training.tolist())
    kept = sorted(sorted(counts, key=lambda word: (-counts[word], word))[:MOST_WORDS])
    number = {word: i for i, word in enumerate(kept)}
    places = torch.tensor([number.get(word, len(kept)) for word in words])
    width = int(max(len(kept), int(places.max()) + 1))
    names = [*kept, "other"][:width]
    return Encoded(torch.nn.functional.one_hot(places, width).float(), tuple(f"{name}={word}" for word in names))


def texts(table: pa.Table, names: list[str], path: str | Path, who: str) -> list[list[str]]:
    """Of every row the text in each of these columns.

    Raises:
        DataError: A column is missing, has empty cells or holds no text.
    """
    columns = []
    for name in names:
        values = column(table, name, path, who)
        if not _is_word(values.type):
            raise DataError(f"{who}: column '{name}' holds {values.type}, but text is needed.")
        columns.append(_texts(values))
    return [list(row) for row in zip(*columns, strict=True)]


def _texts(values: Column) -> list[str]:
    return [str(value) for value in values.to_pylist()]


def _words(values: Column, key: str, who: str) -> list[str]:
    """The texts of a column of words, none of them blank: a CSV file's empty cell is no null where a column holds words."""
    found = _texts(values)
    _refuse_empty([not word.strip() for word in found], key, who)
    return found


def _reads_as_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def _is_word(kind: pa.DataType) -> bool:
    inner = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(inner) or pa.types.is_large_string(inner) or pa.types.is_string_view(inner))
