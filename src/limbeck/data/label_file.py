"""Labels from a file of their own, such as what people answered for a known data set. Nothing that is opened can run code."""

from pathlib import Path

from torch import Tensor

from limbeck.data.files import as_labels, entry, read_npz


def read_labels(path: str | Path, key: str, who: str) -> Tensor:
    """Labels from a file of their own: an array of an .npz file, or a column of a parquet or CSV file; int64 [N].

    A missing file or key and values that are no class numbers are a DataError.
    """
    if Path(path).suffix == ".npz":
        return as_labels(entry(read_npz(path, who), key, path, who), f"{who}: '{key}' in '{path}'")
    from limbeck.data.columns import column, read_table  # pyarrow is slow to import

    return as_labels(column(read_table(path, who), key, path, who).to_numpy(), f"{who}: '{key}' in '{path}'")
