import sys

import pytest
import torch

from limbeck.core.errors import DataError, UsageError
from limbeck.data.python import Python

CODE = """
import numpy as np, torch
from limbeck.data import InMemory
from limbeck.data.digits import Digits
labels = torch.arange(20) % 2
def pair(rows=20): return np.arange(rows * 3.0).reshape(rows, 3), (labels[:rows]).numpy()
def triple(): return torch.zeros(20, 1, 4, 4), labels, 1 - labels
def tokens(): return torch.arange(60).view(20, 3) % 7, labels
def pictures(): return np.arange(20 * 48, dtype=np.uint8).reshape(20, 4, 4, 3), labels
def ready(): return Digits(0.2)
def wrong(): return [1, 2]
def one(): return (labels,)
def nan(): return torch.full((20, 2), float("nan")), labels
def bad_source(): return InMemory(torch.zeros(20, 1), labels + 5, classes=["a", "b"])
def minus(): return torch.zeros(20, 2), labels - 2
value = 3
"""


@pytest.fixture(autouse=True)
def module(tmp_path, monkeypatch):
    (tmp_path / "own_data.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    yield
    sys.modules.pop("own_data", None)


def test_arrays_and_tensors_become_a_source():
    source = Python("own_data:pair", rows=10)
    assert (len(source), source.kind, source.input_shape, source.classes) == (10, "vector", (3,), ("0", "1"))
    assert source.name == "Python('own_data:pair', rows=10)"
    triple = Python("own_data:triple")
    assert (triple.kind, triple.input_shape) == ("image", (1, 4, 4))
    assert torch.equal(triple.truth, 1 - triple.labels)


def test_tokens_bytes_and_sources():
    tokens = Python("own_data:tokens")
    assert (tokens.kind, tokens.vocabulary, tokens.input_shape) == ("tokens", 7, (3,))
    pictures = Python("own_data:pictures")
    assert pictures.input_shape == (3, 4, 4)
    assert abs(float(pictures.read(torch.arange(20))[0].mean())) < 1e-5
    assert Python("own_data:ready").name == "Digits(label_noise=0.2, seed=0)"


def test_the_search_path_is_left_as_it_was():
    before = list(sys.path)
    Python("own_data:pair")
    with pytest.raises(UsageError):
        Python("own_data_missing:pair")
    assert sys.path == before


@pytest.mark.parametrize(
    "target, arguments, error, message",
    [
        ("own_data", {}, UsageError, "'own_data' must read 'module:function'"),
        ("own data:pair", {}, UsageError, "must read 'module:function'"),
        ("own_dta:pair", {}, UsageError, "module 'own_dta' cannot be imported: No module named 'own_dta'."),
        ("own_data:pairs", {}, UsageError, "module 'own_data' has no function 'pairs'; did you mean 'pair'?"),
        ("own_data:value", {}, UsageError, "has no function 'value'"),
        ("own_data:pair", {"row": 3}, UsageError, "cannot be called like this: got an unexpected keyword argument 'row'."),
        ("own_data:wrong", {}, DataError, "a Source, (inputs, labels) or (inputs, labels, truth) is needed, got list."),
        ("own_data:one", {}, DataError, "is needed, got tuple."),
        ("own_data:nan", {}, DataError, "row 0 has NaN or infinite values"),
        ("own_data:bad_source", {}, DataError, "labels must lie in 0 to 1, got 5 in row 0."),
        ("own_data:minus", {}, DataError, "labels must be whole numbers from 0, got -2 in row 0"),
    ],
)
def test_what_is_wrong_is_said(target, arguments, error, message):
    with pytest.raises(error) as caught:
        Python(target, **arguments)
    assert message in str(caught.value)
