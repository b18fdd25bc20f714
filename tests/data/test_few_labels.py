"""Rows without a label: who may have them, where they go, and what is done with none of them."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from limbeck.core.errors import DataError
from limbeck.data.arrays import Arrays
from limbeck.data.digits import Digits
from limbeck.data.domains import Domains
from limbeck.data.few_labels import FewLabels
from limbeck.data.noise import noisy
from limbeck.data.source import InMemory
from limbeck.data.splits import split
from limbeck.data.table import Table


@pytest.fixture
def half(blobs: InMemory) -> InMemory:
    """The blobs without the labels of their second half."""
    labels = blobs.labels.clone()
    labels[150:] = -1
    return InMemory(blobs.inputs, labels, classes=blobs.classes, name="Half()")


def test_they_are_trained_on_and_cut_into_no_other_part(half: InMemory) -> None:
    parts = split(half, seed=0, query=30, validation=0.2, test=0.3)
    assert set(range(150, 300)) <= set(parts.train.tolist())
    assert parts.counts == {"train": 150 + 54, "query": 30, "validation": 21, "test": 45}  # shares of 150, and of 105


def test_noise_leaves_them_alone_and_none_of_their_labels_is_wrong(half: InMemory) -> None:
    labels, truth = noisy(half, 0.4, "symmetric", seed=1)
    half.truth = truth
    assert (labels[150:] == -1).all()
    assert int((labels != half.labels).sum()) == 60
    right = half.right(labels)
    assert right is not None
    assert right.tolist() == [own or row >= 150 for row, own in enumerate((labels == truth).tolist())]


def test_a_mixture_draws_those_with_a_label_and_those_without_in_its_shares(half: InMemory) -> None:
    drawn = Domains(half, torch.arange(100, 300), seed=0, every=10)
    assert (drawn.names, drawn.sizes.tolist()) == (("labelled", "unlabelled"), [50, 150])
    share = (half.labels[drawn.draw(0, 4000)] >= 0).double().mean()
    assert float(share) == pytest.approx(0.5, abs=0.04)  # five standard deviations


def test_arrays_say_minus_one(tmp_path: Path) -> None:
    path, labels = tmp_path / "x.npz", np.arange(30) % 3
    labels[20:] = -1
    np.savez(path, inputs=np.zeros((30, 4)), labels=labels)
    source = Arrays(str(path))
    assert source.classes == ("0", "1", "2")
    assert (~source.labelled).nonzero().squeeze(1).tolist() == list(range(20, 30))


@pytest.mark.parametrize("labels", [["yes", "no", None, " "], [1, 0, None, -1]], ids=["words", "numbers"])
def test_a_table_leaves_the_cell_empty(labels: list[object], tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": np.arange(40.0), "label": labels * 10}), tmp_path / "t.parquet")
    source = Table(str(tmp_path / "t.parquet"))
    assert source.labels.tolist() == [1, 0, -1, -1] * 10
    assert len(source.classes) == 2


@pytest.mark.parametrize("marks", ["is_test", "is_query"])
def test_what_is_measured_on_needs_labels(marks: str, tmp_path: Path) -> None:
    path, labels = tmp_path / "x.npz", np.arange(30) % 3
    labels[7] = -1
    np.savez(path, inputs=np.zeros((30, 4)), labels=labels, **{marks: np.arange(30) < 12})
    with pytest.raises(DataError, match=r"row 7 is one of the (test|query) rows and has no label; give it one, or train on it\."):
        Arrays(str(path))


def test_few_labels_fixes_the_test_split_and_keeps_each_class_in_its_share() -> None:
    whole = Digits(label_noise=0.2)
    few = FewLabels(whole, labels=100, seed=3)
    assert repr(few) == "FewLabels(Digits(label_noise=0.2, seed=0), labels=100, seed=3)"
    assert few.test_rows is not None
    assert (few.labels[few.test_rows] == whole.labels[few.test_rows]).all()
    kept = few.labelled.clone()
    kept[few.test_rows] = False
    assert int(kept.sum()) == 100
    assert torch.bincount(few.strata[kept]).min() >= 9
    assert (few.labels[kept] == whole.labels[kept]).all()
    assert not torch.equal(few.labels, FewLabels(whole, labels=100, seed=4).labels)


def test_few_labels_that_cannot_be_are_refused() -> None:
    with pytest.raises(DataError, match="labels=5 of 1258 rows cannot hold each of 10 classes"):
        FewLabels(Digits(), labels=5)
