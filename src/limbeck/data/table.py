"""Tables from CSV, parquet or JSON-lines files: rows of numbers and words, or texts."""

from collections.abc import Mapping, Sequence
from typing import final

import pyarrow as pa
import torch
from torch import Tensor

from limbeck.core.errors import DataError, nearest
from limbeck.data.columns import column, domains, encode, is_numbering, marked, numbered, read_table, texts
from limbeck.data.noise import noisy
from limbeck.data.pieces import Pieces
from limbeck.data.source import Cell, InMemory, Shown, expression, rows_without
from limbeck.data.validity import check
from limbeck.data.words import Words

_MARKS = ("split", "query", "true_label")
TEST_NAMES = ("test", "validation", "valid", "val", "dev")


class Tabular(InMemory):
    """A table in memory. What the columns `split`, `query` and `true_label` mean is said at `Table`.

    Args:
        table: The table.
        label: The label's column.
        name: The source as one would type it; also begins every message.
        place: What messages call the table.
        text: How the text column is read; None: every other column is an input.
        ignore: Columns that are left out.
        classes: Class names where labels are numbers; None: the numbers.
        group: The column of domains, which is no input; None for one domain.

    Raises:
        DataError: A column is missing, or labels or values are none that can be learned from.
    """

    def __init__(
        self,
        table: pa.Table,
        label: str,
        *,
        name: str,
        place: str,
        text: Words | Pieces | None = None,
        ignore: Sequence[str] = (),
        classes: Sequence[str] | None = None,
        group: str | None = None,
    ) -> None:
        for word in ignore:
            if word not in table.column_names:
                raise DataError(f"{name}: there is no column '{word}' to ignore{nearest(word, table.column_names) or '.'}")
        table = table.select([column for column in table.column_names if column not in ignore])
        self.table, self.words = table, text
        apart = (label, *_MARKS, *([] if group is None else [group]))
        given = column(table, label, place, name, gaps=True)
        truth = column(table, "true_label", place, name, gaps=True) if "true_label" in table.column_names else None
        labels, true, found = numbered(given, truth, name)
        test_rows = fixed_test_rows(table, place, name)
        training = rows_without(len(labels), test_rows)
        if text is not None:
            inputs, mask, vocabulary = text.encode(texts(table, text.columns, place, name), training)
            super().__init__(inputs, labels, classes=classes or found, truth=true, name=name, vocabulary=vocabulary, mask=mask)
            self.tokenizer = text.tokenizer if isinstance(text, Pieces) else None
        else:
            used = [other for other in table.column_names if other not in apart]
            encoded = encode(table, used, training, place, name)
            self.doubts = tuple(
                f"Column '{other}' numbers or names the rows, which nobody can learn from; leave it out by ignore=['{other}']."
                for other in used
                if is_numbering(table[other])
            )
            super().__init__(encoded.values, labels, classes=classes or found, truth=true, name=name)
            self.columns = encoded.names
        self.test_rows = test_rows
        if "query" in table.column_names:
            self.query_rows = marked(column(table, "query", place, name), f"{name}: column 'query'")
        if group is not None:
            self.groups, self.group_names = domains([str(name) for name in column(table, group, place, name).to_pylist()])
        self.shown = [other for other in table.column_names if other not in (label, *_MARKS)]
        check(self)

    def show(self, row: int) -> Shown:
        """The text, or the row as it stands in the table."""
        cells: Mapping[str, object] = self.table.slice(row, 1).to_pylist()[0]
        if self.words is not None:
            return Shown("text", text="\n".join(str(cells[name]) for name in self.words.columns))
        return Shown("row", row={name: _cell(cells[name]) for name in self.shown})


@final
class Table(Tabular):
    """A CSV (.csv, .tsv), parquet or JSON-lines (.jsonl) file: numbers and words as vectors, or one column as text.

    Numbers are brought to mean 0 and standard deviation 1 over the rows outside a fixed test split; word columns become one-hot:
    the 32 most frequent words get a place each and all others share one. Labels are words, numbered in alphabetical order, or
    whole numbers from 0; a training row whose label's cell is empty has none, and only terms that need no labels learn from it.

    Three columns are no inputs: `split` (rows that say "test" are the fixed test split, those that say "validation" where none
    says "test"; all other rows are training rows), `query` (0 and 1: the trusted query set) and `true_label` (for evaluation).

    Args:
        path: The file.
        label: The label's column.
        text: The text column, or `Words(...)` or `Pieces(...)` to say more; the source then gives token ids. None: a table of
            numbers and words.
        ignore: Columns to leave out, such as a row's number.
        group: A column of domains, by which a mixture draws; it is no input.
        label_noise: Share of the labels outside the test split that are flipped, in [0, 1).
        noise: How: "symmetric", "pair_flip", "instance_dependent" or "human:<file>:<key>".
        seed: Seed of the noise.

    A missing file or column, empty cells elsewhere, NaN, and labels out of range are a DataError.
    """

    def __init__(
        self,
        path: str,
        label: str = "label",
        *,
        text: str | Words | Pieces | None = None,
        ignore: Sequence[str] = (),
        group: str | None = None,
        label_noise: float = 0.0,
        noise: str = "symmetric",
        seed: int = 0,
    ) -> None:
        words = Words(text) if isinstance(text, str) else text
        said: dict[str, object] = {key: value for key, value in {"text": text, "group": group}.items() if value is not None}
        name = expression("Table", path, label_noise=label_noise, noise=noise, seed=seed, **said)
        super().__init__(read_table(path, name), label, name=name, place=path, text=words, ignore=ignore, group=group)
        self.labels, self.truth = noisy(self, label_noise, noise, seed=seed)


def fixed_test_rows(table: pa.Table, place: str, who: str) -> Tensor | None:
    """The rows that the column `split` puts into the test split; None where it fixes none."""
    if "split" not in table.column_names:
        return None
    parts = [str(part).lower() for part in column(table, "split", place, who).to_pylist()]
    called = next((name for name in TEST_NAMES if name in parts), None)
    if called is None:
        return None
    return torch.tensor([row for row, part in enumerate(parts) if part == called])


def _cell(value: object) -> Cell:
    return value if isinstance(value, str | int | float | bool) else str(value)
