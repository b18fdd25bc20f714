import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from limbeck.core.errors import DataError, MissingExtraError
from limbeck.data.torchvision_sets import CIFAR10, CIFAR100, SVHN


def pixels(rows, layout):
    shape = (rows, 32, 32, 3) if layout == "NHWC" else (rows, 3, 32, 32)
    return np.random.default_rng(rows).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture
def small(monkeypatch):
    """Stand-ins for torchvision's classes, with its attributes: the real files are large and checked by checksum."""

    def cifar(root, train, download):
        rows = 40 if train else 20
        return SimpleNamespace(
            data=pixels(rows, "NHWC"), targets=[row % 10 for row in range(rows)], classes=[f"c{i}" for i in range(10)]
        )

    def svhn(root, split, download):
        rows = 40 if split == "train" else 20
        return SimpleNamespace(data=pixels(rows, "NCHW"), labels=np.arange(rows) % 10)

    import torchvision.datasets

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", cifar)
    monkeypatch.setattr(torchvision.datasets, "SVHN", svhn)


def test_training_rows_come_first_and_the_test_split_is_fixed(small):
    source = CIFAR10("data", label_noise=0.5, noise="pair_flip")
    assert (len(source), source.input_shape, source.classes[:2]) == (60, (3, 32, 32), ("c0", "c1"))
    assert source.test_rows.tolist() == list(range(40, 60))
    assert int((source.labels != source.truth).sum()) == 20
    assert torch.equal(source.inputs[3].permute(1, 2, 0), torch.from_numpy(pixels(40, "NHWC")[3]))
    assert abs(float(source.read(torch.arange(40))[0].mean())) < 1e-5
    assert source.name == "CIFAR10('data', label_noise=0.5, noise='pair_flip', seed=0)"


def test_svhn_has_other_attributes(small):
    source = SVHN("data")
    assert source.classes == tuple("0123456789")
    assert torch.equal(source.inputs[3], torch.from_numpy(pixels(40, "NCHW")[3]))


@pytest.mark.parametrize("reader", [CIFAR10, CIFAR100, SVHN])
def test_without_the_files_the_message_says_what_to_do(reader, tmp_path):
    with pytest.raises(DataError) as caught:
        reader(str(tmp_path))
    assert "there is no complete" in str(caught.value)
    assert "say download=True once" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_torchvision_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision.datasets", None)
    with pytest.raises(MissingExtraError, match=r"CIFAR10 needs the package torchvision: pip install limbeck\[vision\]"):
        CIFAR10("data")
