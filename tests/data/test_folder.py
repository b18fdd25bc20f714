import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from limbeck.core.errors import DataError, MissingExtraError, UsageError
from limbeck.data import Loader
from limbeck.data.folder import ImageFolder


def paint(folder, word, count, size=(10, 8), mode="RGB"):
    (folder / word).mkdir(parents=True)
    generator = np.random.default_rng(len(word))
    for number in range(count):
        Image.fromarray(generator.integers(0, 256, (*size[::-1], 3), dtype=np.uint8)).convert(mode).save(
            folder / word / f"{number}.png"
        )


@pytest.fixture
def animals(tmp_path):
    for word, count in [("cat", 4), ("bird", 3), ("ox", 5)]:
        paint(tmp_path, word, count)
    (tmp_path / "cat" / "notes.txt").write_text("not a picture")
    return tmp_path


def test_folders_are_classes_in_alphabetical_order(animals):
    source = ImageFolder(str(animals), size=8)
    assert (source.kind, source.classes, source.input_shape) == ("image", ("bird", "cat", "ox"), (3, 8, 8))
    assert source.labels.tolist() == [0] * 3 + [1] * 4 + [2] * 5
    assert source.test_rows is None
    assert source.name == f"ImageFolder({str(animals)!r}, size=8)"
    assert source.show(0).png.startswith(b"\x89PNG")


def test_pictures_are_normalised_over_the_open_rows(animals):
    inputs, _ = ImageFolder(str(animals), size=8).read(torch.arange(12))
    assert inputs.dtype == torch.float32
    assert_close(inputs.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    assert_close(inputs.std((0, 2, 3), correction=0), torch.ones(3), atol=1e-5, rtol=0)


def test_a_square_picture_of_the_wanted_size_is_read_exactly(tmp_path):
    paint(tmp_path, "a", 2, size=(6, 6))
    paint(tmp_path, "bb", 2, size=(6, 6))
    source = ImageFolder(str(tmp_path), size=6)
    assert np.array_equal(source.pixels(1).permute(1, 2, 0).numpy(), np.asarray(Image.open(tmp_path / "a" / "1.png")))


@pytest.mark.parametrize("called", ["test", "val"])
def test_a_test_folder_fixes_the_test_split(tmp_path, called):
    for part, count in [("train", 4), (called, 2)]:
        paint(tmp_path / part, "a", count)
        paint(tmp_path / part, "bb", count)
    source = ImageFolder(str(tmp_path), size=4, label_noise=0.5)
    assert source.test_rows.tolist() == [8, 9, 10, 11]
    assert source.truth.tolist() == [0] * 4 + [1] * 4 + [0] * 2 + [1] * 2
    assert int((source.labels != source.truth).sum()) == 4


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1"])
def test_other_colour_modes_become_three_channels(tmp_path, mode):
    paint(tmp_path, "a", 2, mode=mode)
    paint(tmp_path, "bb", 2, mode=mode)
    assert ImageFolder(str(tmp_path), size=4).read(torch.arange(4))[0].shape == (4, 3, 4, 4)


def test_workers_read_what_one_process_reads(animals):
    source = ImageFolder(str(animals), size=4)
    one, two = (Loader(source, torch.arange(12), batch_size=4, seed=0, labels=source.labels, workers=n).epoch(0) for n in (0, 1))
    assert all(torch.equal(a.inputs, b.inputs) for a, b in zip(one, two, strict=True))


def test_instance_dependent_noise_reads_the_pictures(animals):
    source = ImageFolder(str(animals), size=4, label_noise=0.5, noise="instance_dependent")
    assert int((source.labels != source.truth).sum()) == 6


def test_a_damaged_picture_is_named(animals):
    (animals / "cat" / "2.png").write_bytes(b"\x89PNG nothing")
    with pytest.raises(DataError, match=r"the picture of row 5 \(.*2\.png\) cannot be read; mend or remove it"):
        ImageFolder(str(animals), size=4)


def test_folders_without_pictures_are_refused(animals):
    (animals / "dog").mkdir()
    with pytest.raises(DataError, match=r"class 'dog' \(number 2\) has no rows"):
        ImageFolder(str(animals))
    with pytest.raises(DataError, match="holds no folders of pictures; put each class into a folder of its own"):
        ImageFolder(str(animals / "ox"))
    with pytest.raises(DataError, match=r"there is no folder '.*catt'; did you mean 'cat'\?"):
        ImageFolder(str(animals / "catt"))
    with pytest.raises(DataError, match="is a file; name a folder"):
        ImageFolder(str(animals / "cat" / "notes.txt"))
    with pytest.raises(UsageError, match="size must be a whole number of at least 1, got 0"):
        ImageFolder(str(animals), size=0)


def test_without_pillow_the_extra_is_named(animals, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(MissingExtraError, match=r"needs the package PIL: pip install limbeck\[vision\]"):
        ImageFolder(str(animals))
