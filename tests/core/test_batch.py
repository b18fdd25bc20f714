"""Batch and Outputs: rows stay together, whatever is done to them."""

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from limbeck.core.batch import Batch
from limbeck.core.errors import ShapeError
from limbeck.core.outputs import Outputs
from support.makers import normal


def batch(rows: int = 7) -> Batch:
    number = torch.arange(rows)
    return Batch(
        number.view(-1, 1).expand(rows, 3).double(), number, number + 100, number.view(-1, 1).expand(rows, 4) > 2, {"row": number}
    )


def assert_rows(part: Batch, rows: list[int]) -> None:
    """Every column of the batch holds these rows."""
    assert part.inputs[:, 0].tolist() == rows
    assert part.targets is not None
    assert part.targets.tolist() == rows
    assert part.index.tolist() == [row + 100 for row in rows]
    assert part.mask is not None
    assert part.mask[:, 0].tolist() == [row > 2 for row in rows]
    assert part.meta["row"].tolist() == rows


def test_take_by_positions_mask_and_slice() -> None:
    assert_rows(batch().take(torch.tensor([5, 0, 5])), [5, 0, 5])
    assert_rows(batch().take(slice(2, 5)), [2, 3, 4])
    assert_rows(batch().take(torch.arange(7) % 2 == 1), [1, 3, 5])
    bare = Batch(torch.zeros(3, 2), None, torch.arange(3)).take(slice(0, 2))
    assert bare.targets is None
    assert bare.mask is None


@given(rows=st.integers(1, 20), parts=st.integers(1, 25))
def test_split_is_consecutive_nearly_equal_and_never_empty(rows: int, parts: int) -> None:
    pieces = batch(rows).split(parts)
    assert [row for piece in pieces for row in piece.index.tolist()] == list(range(100, 100 + rows))
    sizes = [len(piece) for piece in pieces]
    assert len(pieces) == min(rows, parts)
    assert max(sizes) - min(sizes) <= 1


def test_an_empty_batch_splits_into_nothing() -> None:
    assert batch().take(slice(0, 0)).split(3) == []


def test_frozen_and_checked() -> None:
    one = batch()
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.index = torch.arange(7)  # type: ignore[misc]
    with pytest.raises(ShapeError, match="Batch: targets has 2 rows and index has 7"):
        dataclasses.replace(one, targets=torch.zeros(2))
    with pytest.raises(ShapeError, match="Batch: row has 1 rows"):
        dataclasses.replace(one, meta={"row": torch.zeros(1)})
    with pytest.raises(ShapeError, match="Batch: mask has 3 rows"):
        dataclasses.replace(one, mask=torch.ones(3, 4, dtype=torch.bool))


def test_to_another_device_moves_every_column() -> None:
    moved = batch().to("meta")
    assert {part.device.type for part in (moved.inputs, moved.targets, moved.index, moved.mask) if part is not None} == {"meta"}
    assert moved.meta["row"].device.type == "meta"


def test_outputs_take_concat_and_detach() -> None:
    source = normal(6, 3).requires_grad_()
    outputs = Outputs(source * 1, {"body": source * 2})
    again = Outputs.concat([outputs.take(slice(0, 2)), outputs.take(torch.arange(2, 6))])
    assert torch.equal(again.logits, outputs.logits)
    assert torch.equal(again.features["body"], outputs.features["body"])
    loose = outputs.detach()
    assert not loose.logits.requires_grad
    assert not loose.features["body"].requires_grad
