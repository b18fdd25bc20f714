"""Data sets of the Hugging Face hub or from local files, by the `datasets` library."""

from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, final

import pyarrow as pa
import torch

from limbeck.core.errors import DataError, nearest
from limbeck.core.extras import optional
from limbeck.core.online import hub
from limbeck.data.files import as_labels, existing
from limbeck.data.noise import noisy
from limbeck.data.pictures import Pictures
from limbeck.data.pieces import Pieces
from limbeck.data.source import Source, expression, numbers
from limbeck.data.table import TEST_NAMES, Tabular
from limbeck.data.validity import check
from limbeck.data.words import Words

if TYPE_CHECKING:
    from PIL.Image import Image

_FORMATS = {".csv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}


def HF(
    name_or_path: str,
    label: str = "label",
    *,
    text: str | Words | Pieces | None = None,
    size: int = 32,
    label_noise: float = 0.0,
    noise: str = "symmetric",
    seed: int = 0,
) -> Source:
    """A data set by the `datasets` library: texts, pictures, or a table of numbers and words.

    All its splits are taken: `test` is the fixed test split (`validation` where there is no labelled `test`), the others are
    training rows. A split whose labels are all -1 is left out; in another one such rows are training rows without a label. A data
    set with a column of pictures gives pictures; with `text`, token ids; else its columns are read as `Table` reads them.

    Args:
        name_or_path: A name on the hub, "ag_news", or with a configuration, "glue:sst2"; a folder written by `save_to_disk`; or a
            .csv, .json, .jsonl or .parquet file.
        label: The label's column.
        text: The text column, or `Words(...)` or `Pieces(...)` to say more.
        size: Height and width in pixels that every picture is brought to.
        label_noise: Share of the labels outside the test split that are flipped, in [0, 1).
        noise: How: "symmetric", "pair_flip", "instance_dependent" or "human:<file>:<key>".
        seed: Seed of the noise.

    A missing package is a MissingExtraError; what cannot be loaded or trained on is a DataError.
    """
    said: dict[str, object] = {} if text is None else {"text": text}
    name = expression("HF", name_or_path, label_noise=label_noise, noise=noise, seed=seed, **said)
    library = optional("datasets", "text", "HF")
    parts = _labelled(_load(library, name_or_path, name), label, name)
    features = next(iter(parts.values())).features
    images = [column for column, feature in features.items() if isinstance(feature, library.Image)]
    classes = features[label].names if isinstance(features[label], library.ClassLabel) else None
    source: Source
    if images and text is None:
        source = HFPictures(parts, images[0], label, classes=classes, name=name, size=size)
    else:
        source = Tabular(
            _table(parts),
            label,
            name=name,
            place=name_or_path,
            text=Words(text) if isinstance(text, str) else text,
            classes=classes,
        )
    source.labels, source.truth = noisy(source, label_noise, noise, seed=seed)
    return source


@final
class HFPictures(Pictures):
    """The pictures of a data set, decoded when they are read.

    Args:
        parts: `datasets.Dataset` objects by split.
        column: The column of pictures.
        label: The label's column.
        classes: Class names; None: the numbers.
        name: How the source is called in results.
        size: Height and width in pixels that every picture is brought to.
    """

    def __init__(
        self, parts: "dict[str, Any]", column: str, label: str, *, classes: list[str] | None, name: str, size: int
    ) -> None:
        given = [as_labels(_column(part, label).to_numpy(), f"{name}: labels", missing=True) for part in parts.values()]
        labels = torch.cat(given)
        named = classes or numbers(name, labels)
        called = _test_part(parts)
        origin = [split for split, part in zip(parts, given, strict=True) for _ in range(len(part))]
        test_rows = torch.tensor([row for row, split in enumerate(origin) if split == called]) if called else None
        super().__init__(labels, named, name=name, size=size, test_rows=test_rows)
        self.column = column
        self.where = [(part, row) for part in parts.values() for row in range(len(part))]
        check(self)

    def picture(self, row: int) -> "Image":
        """The picture of a row."""
        part, place = self.where[row]
        image: Image = part[place][self.column]
        return image


def _load(library: ModuleType, name_or_path: str, who: str) -> "dict[str, Any]":
    """The splits by name.

    Raises:
        DataError: There is nothing of that name, or it cannot be loaded.
    """
    path = Path(name_or_path)
    try:
        if path.suffix in _FORMATS:
            loaded = library.load_dataset(_FORMATS[path.suffix], data_files=str(existing(path, who)))
        elif path.is_dir():
            loaded = library.load_from_disk(str(path))
        else:
            loaded = _from_hub(library, name_or_path, who)
    except DataError:
        raise
    except Exception as error:  # the library and its readers raise what they like; every cause is the user's to see
        first = (str(error) or type(error).__name__).splitlines()[0]
        raise DataError(f"{who}: '{name_or_path}' cannot be loaded: {first}") from error
    return dict(loaded) if isinstance(loaded, dict) else {"train": loaded}


def _from_hub(library: ModuleType, name: str, who: str) -> object:
    """A data set of the hub.

    Raises:
        DataError: The hub cannot be reached, and the data set was not downloaded before.
        OSError: It cannot be loaded otherwise.
    """
    with hub() as unreached:
        try:
            return library.load_dataset(*name.split(":", 1))
        except OSError as error:
            if not unreached:
                raise
            raise DataError(f"{who}: '{name}' cannot be loaded: {unreached}; go online once, or give a local file.") from error


def _column(part: Any, name: str) -> Any:  # noqa: ANN401
    """A column as an arrow array."""
    return part.select_columns([name]).with_format("arrow")[:].column(name)


def _labelled(parts: "dict[str, Any]", label: str, who: str) -> "dict[str, Any]":
    """The splits that have labels.

    Raises:
        DataError: There is no such column, or no split has labels.
    """
    kept = {}
    for name, part in parts.items():
        if label not in part.column_names:
            choices = ", ".join(part.column_names)
            raise DataError(
                f"{who}: split '{name}' has no column '{label}', only {choices}{nearest(label, part.column_names) or '.'}"
            )
        if any(value not in (-1, None) for value in _column(part, label).unique().to_pylist()):
            kept[name] = part
    if not kept:
        raise DataError(f"{who}: no split has labels in column '{label}'; name the label's column with label=.")
    return kept


def _test_part(parts: "dict[str, Any]") -> str | None:
    return next((name for name in TEST_NAMES if name in parts and len(parts) > 1), None)


def _table(parts: "dict[str, Any]") -> pa.Table:
    """All splits below one another, with the column `split`."""
    tables = [part.with_format("arrow")[:] for part in parts.values()]
    marked = (
        tables
        if len(tables) == 1
        else [
            table.append_column("split", pa.array([name] * len(table))) if "split" not in table.column_names else table
            for name, table in zip(parts, tables, strict=True)
        ]
    )
    return pa.concat_tables(marked, promote_options="default")
