"""Weights from a table, by sample identity."""

from collections.abc import Mapping
from pathlib import Path
from typing import final

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from limbeck.core.batch import PARTNER
from limbeck.core.errors import DataError
from limbeck.weighting.weighting import Step, Weighting


@final
class Stored(Weighting):
    """Fixed weights by sample identity; samples without one get 1.

    Args:
        index: [N] int64 identities.
        weights: [N], finite and >= 0.

    Raises:
        DataError: A weight is negative, NaN or infinite, an identity comes twice or is no row number.
    """

    LARGEST = 2**28

    def __init__(self, index: Tensor, weights: Tensor) -> None:
        if len(index) != len(weights) or not len(index):
            raise DataError(f"Stored: needs one weight per identity, got {len(index)} identities and {len(weights)} weights.")
        if not torch.isfinite(weights).all() or (weights < 0).any():
            raise DataError("Stored: weights must be finite and 0 or above; look at the column for NaN and negative values.")
        if len(torch.unique(index)) != len(index) or (index < 0).any():
            raise DataError(
                "Stored: every sample identity must be 0 or above and come once; average the weights of several seeds first."
            )
        if int(index.max()) >= self.LARGEST:
            raise DataError(f"Stored: an identity is the number of a row, below {self.LARGEST}, got {int(index.max())}.")
        self.table = torch.ones(int(index.max()) + 1, dtype=weights.dtype)
        self.table[index] = weights

    def __call__(self, step: Step) -> Tensor:
        """The stored weights, [B]."""
        batch = step.batch
        largest = max(int(rows.max()) for rows in (batch.index, batch.meta.get(PARTNER, batch.index)))
        unknown = self.table.new_ones(max(0, largest + 1 - len(self.table)))
        return batch.looked_up(torch.cat([self.table, unknown]).to(batch.index.device))

    def state(self) -> dict[str, Tensor]:
        """The table."""
        return {"table": self.table}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `state` gave."""
        self.table = state["table"]

    def __repr__(self) -> str:
        return f"Stored({len(self.table)} rows)"


def FromFile(path: str, column: str = "weight") -> Stored:
    """Weights from a parquet file with the columns `index` and the one named, such as a run's samples.parquet.

    Where the file has several rows for an identity (several seeds) their mean is taken.

    Args:
        path: The parquet file.
        column: The column of weights.

    Raises:
        DataError: The file or a column is missing, or a weight is not usable.
    """
    if not Path(path).is_file():
        raise DataError(f"FromFile: there is no file {path}; give a parquet file with the columns index and {column}.")
    try:
        schema = pq.read_schema(path)
    except pa.ArrowException as error:
        raise DataError(f"FromFile: {path} is not a parquet file; write it with pyarrow or pandas.to_parquet.") from error
    missing = [name for name in ("index", column) if name not in schema.names]
    if missing:
        raise DataError(f"FromFile: {path} has no column {missing[0]!r}; it has {', '.join(schema.names)}.")
    if not pa.types.is_integer(schema.field("index").type):
        raise DataError(f"FromFile: the column index of {path} must hold whole numbers, it is {schema.field('index').type}.")
    kind = schema.field(column).type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        raise DataError(f"FromFile: the column {column!r} of {path} must hold numbers, it is {kind}.")
    table = pq.read_table(path, columns=list(dict.fromkeys(("index", column))))
    empty = [name for name in table.column_names if table[name].null_count]
    if empty:
        raise DataError(f"FromFile: the column {empty[0]!r} of {path} has empty cells; fill them or drop their rows.")
    rows = table.group_by("index").aggregate([(column, "mean")])
    return Stored(torch.tensor(rows["index"].to_pylist()), torch.tensor(rows[f"{column}_mean"].to_pylist(), dtype=torch.float32))
