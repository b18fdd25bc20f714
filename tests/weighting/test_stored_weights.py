"""Weights from a table: by identity, and every mistake in the file is one sentence."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch.testing import assert_close

from limbeck.core.errors import DataError
from limbeck.weighting.stored import FromFile, Stored
from support.stub_run import StubRun


def write(folder: Path, **columns: Any) -> str:
    path = folder / "weights.parquet"
    pq.write_table(pa.table(columns), path)
    return str(path)


def test_weights_come_by_identity_and_others_get_one() -> None:
    run = StubRun()
    stored = run.bind(Stored(torch.tensor([3, 0, 31, 500]), torch.tensor([0.5, 2.0, 0.0, 9.0])))
    weights = stored(run.step())
    wanted = torch.ones(32, dtype=torch.float64)
    wanted[[3, 0, 31]] = torch.tensor([0.5, 2.0, 0.0], dtype=torch.float64)
    assert torch.equal(weights, wanted)
    assert torch.equal(
        run.bind(Stored(torch.tensor([1]), torch.tensor([0.5])))(run.step()).sort().values[1:], torch.ones(31).double()
    )


def test_state_round_trips() -> None:
    run = StubRun()
    stored, other = Stored(torch.tensor([3, 0]), torch.tensor([0.5, 2.0])), Stored(torch.tensor([9]), torch.tensor([1.0]))
    other.load_state(stored.state())
    assert torch.equal(run.bind(other)(run.step()), run.bind(stored)(run.step()))


def test_file_of_several_seeds_is_averaged(tmp_path: Path) -> None:
    path = write(tmp_path, seed=[0, 0, 1, 1], index=[4, 7, 4, 7], weight=[1.0, 0.0, 2.0, 0.5], mean_weight=[1, 1, 1, 3])
    assert_close(FromFile(path).table[[4, 7]], torch.tensor([1.5, 0.25]))
    assert_close(FromFile(path, "mean_weight").table[[4, 7]], torch.tensor([1.0, 2.0]))
    assert_close(FromFile(write(tmp_path, index=[0, 1], weight=[True, False])).table, torch.tensor([1.0, 0.0]))


MISTAKES: list[tuple[str, Callable[[Path], str], str]] = [
    ("no file", lambda folder: str(folder / "none.parquet"), "there is no file"),
    ("a folder", str, "there is no file"),
    ("text", lambda folder: write(folder, index=[0, 1], weight=["a", "b"]), "'weight' of .* must hold numbers, it is string"),
    ("lists", lambda folder: write(folder, index=[0, 1], weight=[[1.0], [2.0]]), "must hold numbers, it is list"),
    ("no weights", lambda folder: write(folder, index=[0, 1], wieght=[1.0, 1.0]), "has no column 'weight'; it has index, wieght"),
    ("no index", lambda folder: write(folder, weight=[1.0]), "has no column 'index'"),
    ("index in halves", lambda folder: write(folder, index=[0.5, 1.0], weight=[1.0, 1.0]), "whole numbers, it is double"),
    ("index of names", lambda folder: write(folder, index=["a"], weight=[1.0]), "whole numbers, it is string"),
    ("an empty index", lambda folder: write(folder, index=[None, 1], weight=[1.0, 1.0]), "'index' of .* has empty cells"),
    ("an empty weight", lambda folder: write(folder, index=[0, 1], weight=[None, 1.0]), "'weight' of .* has empty cells"),
    ("no number", lambda folder: write(folder, index=[0, 1], weight=[float("nan"), 1.0]), "must be finite and 0 or above"),
    ("infinite", lambda folder: write(folder, index=[0, 1], weight=[float("inf"), 1.0]), "must be finite and 0 or above"),
    ("below nought", lambda folder: write(folder, index=[0, 1], weight=[-0.1, 1.0]), "must be finite and 0 or above"),
    ("identity below nought", lambda folder: write(folder, index=[-1, 1], weight=[1.0, 1.0]), "must be 0 or above"),
    ("an identity beyond memory", lambda folder: write(folder, index=[2**45], weight=[1.0]), "number of a row"),
    ("no rows", lambda f: write(f, index=pa.array([], pa.int64()), weight=pa.array([], pa.float64())), "one weight per identity"),
]


@pytest.mark.parametrize("make, told", [row[1:] for row in MISTAKES], ids=[row[0] for row in MISTAKES])
def test_mistakes_are_one_sentence(tmp_path: Path, make: Callable[[Path], str], told: str) -> None:
    with pytest.raises(DataError, match=told) as caught:
        FromFile(make(tmp_path))
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_parquet(tmp_path: Path) -> None:
    path = tmp_path / "weights.csv"
    path.write_text("index,weight\n0,1\n")
    with pytest.raises(DataError, match="not a parquet file"):
        FromFile(str(path))


def test_a_table_that_does_not_fit() -> None:
    with pytest.raises(DataError, match="got 2 identities and 1 weights"):
        Stored(torch.arange(2), torch.ones(1))
    with pytest.raises(DataError, match="come once"):
        Stored(torch.tensor([1, 1]), torch.ones(2))
