"""The record of all processes: whose rows they were."""

from typing import cast

import torch
from torch import Tensor

from limbeck.core.batch import Batch
from limbeck.engine.engine import Engine
from limbeck.training.training import Record, of_all


class Twice:
    """Two processes that hold the same."""

    processes = 2
    device = torch.device("cpu")

    def gather(self, part: Tensor) -> Tensor:
        return torch.cat([part, part])


def rows(*index: int) -> Batch:
    return Batch(torch.tensor(index).float().unsqueeze(1), None, torch.tensor(index))


def test_it_has_the_rows_that_were_trained_on() -> None:
    """Those of the loader, where the step took them; its own, where it wrote others."""
    record = Record(rows(5, 7), 1.0, {}, torch.ones(2))
    loaded = rows(5, 7, 5, 7)
    assert of_all(record, loaded, cast(Engine, Twice())).batch is loaded
    other = of_all(record, rows(1, 2), cast(Engine, Twice()))
    assert other.batch.index.tolist() == [5, 7, 5, 7]
    assert other.batch.inputs.tolist() == [[5.0], [7.0], [5.0], [7.0]]
    assert len(other.weights) == 4
