import sys

import numpy as np
import pytest
import torch

from limbeck.core.errors import DataError, MissingExtraError
from limbeck.data.hub import HF
from limbeck.data.words import Words

datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


def texts(rows, label=None):
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["bad", "good"])})
    labels = [row % 2 if label is None else label for row in range(rows)]
    return datasets.Dataset.from_dict({"text": [f"film {row}" for row in range(rows)], "label": labels}, features)


def test_texts_with_their_splits_and_class_names(tmp_path):
    datasets.DatasetDict({"train": texts(20), "test": texts(6)}).save_to_disk(tmp_path / "d")
    source = HF(str(tmp_path / "d"), text=Words(length=3), label_noise=0.5)
    assert (source.kind, source.classes, source.input_shape) == ("tokens", ("bad", "good"), (3,))
    assert source.test_rows.tolist() == list(range(20, 26))
    assert int((source.labels != source.truth).sum()) == 10
    assert source.show(21).text == "film 1"


def test_a_split_without_labels_is_left_out(tmp_path):
    parts = {"train": texts(20), "validation": texts(6), "test": texts(5, label=-1)}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "d")
    source = HF(str(tmp_path / "d"), text="text")
    assert len(source) == 26
    assert source.test_rows.tolist() == list(range(20, 26))
    assert source.name == f"HF({str(tmp_path / 'd')!r}, text='text')"


def test_pictures_are_read_lazily(tmp_path):
    from PIL import Image

    images = [Image.fromarray(np.full((6, 8, 3), 20 * row, dtype=np.uint8)) for row in range(10)]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    part = datasets.Dataset.from_dict({"image": images, "label": [0, 1] * 5}, features)
    datasets.DatasetDict({"train": part, "test": part.select(range(4))}).save_to_disk(tmp_path / "d")
    source = HF(str(tmp_path / "d"), size=4)
    assert (source.kind, source.input_shape, len(source), source.classes) == ("image", (3, 4, 4), 14, ("a", "b"))
    assert source.test_rows.tolist() == [10, 11, 12, 13]
    assert source.pixels(3).unique().tolist() == [60]
    assert torch.equal(source.read(torch.tensor([1]))[0], source.read(torch.tensor([11]))[0])


def test_one_split_and_rows_of_numbers_from_a_file(tmp_path):
    (tmp_path / "d.jsonl").write_text("".join(f'{{"x": {row}, "word": "w{row % 3}", "label": {row % 2}}}\n' for row in range(12)))
    source = HF(str(tmp_path / "d.jsonl"))
    assert (source.kind, source.test_rows, source.columns) == ("vector", None, ("x", "word=w0", "word=w1", "word=w2"))


def test_what_cannot_be_loaded_is_said_in_one_sentence(tmp_path):
    texts(4).save_to_disk(tmp_path / "d")
    with pytest.raises(DataError, match=r"split 'train' has no column 'lable', only text, label; did you mean 'label'\?"):
        HF(str(tmp_path / "d"), "lable")
    with pytest.raises(DataError, match=r"there is no file '.*x\.csv'"):
        HF(str(tmp_path / "x.csv"))
    with pytest.raises(DataError, match="cannot be loaded") as caught:
        HF("no/such-data-set")
    assert "\n" not in str(caught.value)
    texts(4, label=-1).save_to_disk(tmp_path / "none")
    with pytest.raises(DataError, match="no split has labels in column 'label'"):
        HF(str(tmp_path / "none"), text="text")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="cannot be loaded"):
        HF(str(tmp_path / "empty"))


def test_without_the_library_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtraError, match=r"HF needs the package datasets: pip install limbeck\[text\]"):
        HF("ag_news")
