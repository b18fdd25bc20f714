import io
import struct
import zlib

import pytest
import torch
from torch.testing import assert_close

from limbeck.core.errors import DataError
from limbeck.data import InMemory
from limbeck.data.digits import Digits
from limbeck.data.png import png
from limbeck.data.source import Scaling, rows_without


def test_digits_are_the_data_set_of_scikit_learn():
    source = Digits()
    assert (len(source), source.kind, source.input_shape, source.classes) == (1797, "image", (1, 8, 8), tuple("0123456789"))
    inputs, mask = source.read(torch.arange(1797))
    assert mask is None
    assert inputs.dtype == torch.float32
    assert (float(inputs.min()), float(inputs.max())) == (0.0, 1.0)
    assert torch.equal(source.labels, source.truth)
    assert source.name == "Digits()"


def test_digits_noise_is_by_its_own_seed_and_leaves_the_truth():
    one, same, other = Digits(0.3), Digits(label_noise=0.3, seed=0), Digits(0.3, seed=1)
    assert torch.equal(one.labels, same.labels)
    assert not torch.equal(one.labels, other.labels)
    assert int((one.labels != one.truth).sum()) == 539
    assert torch.equal(one.truth, Digits().labels)
    assert repr(other) == "Digits(label_noise=0.3, seed=1)"


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_png_holds_the_enlarged_pixels(channels):
    from PIL import Image

    pixels = torch.randint(0, 256, (channels, 8, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    opened = torch.tensor(list(Image.open(io.BytesIO(png(pixels))).tobytes())).view(96, 72, -1)
    kept = pixels[:3] if channels >= 3 else pixels[:1]
    assert torch.equal(opened[::12, ::12].permute(2, 0, 1), kept.long())
    assert torch.equal(opened[11::12, 11::12].permute(2, 0, 1), kept.long())


def test_png_of_floats_keeps_the_unit_range_and_stretches_any_other():
    def grey(image):
        body = png(image)
        start = body.index(b"IDAT")
        (size,) = struct.unpack(">I", body[start - 4 : start])
        return set(zlib.decompress(body[start + 4 : start + 4 + size])) - {0}

    assert grey(torch.full((1, 96, 96), 0.5)) == {128}
    assert grey(torch.tensor([[[-3.0, 1.0]]]).repeat(1, 96, 48)) == {255}


def test_a_row_is_shown_as_what_it_is(blobs):
    assert Digits().show(0).png.startswith(b"\x89PNG")
    assert list(blobs.show(3).row) == ["0", "1", "2", "3", "4"]
    tokens = InMemory(
        torch.tensor([[5, 6, 0]]), torch.tensor([0]), vocabulary=7, mask=torch.tensor([[True, True, False]]), classes=["a"]
    )
    assert (tokens.kind, tokens.show(0).text) == ("tokens", "5 6")


def test_scaling_gives_mean_zero_and_deviation_one_over_its_rows_alone():
    pixels = torch.randint(0, 256, (20, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    pixels[10:] = 0
    scaled = Scaling.of(pixels, torch.arange(10))(pixels)
    assert_close(scaled[:10].mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    assert_close(scaled[:10].std((0, 2, 3), correction=0), torch.ones(3), atol=1e-5, rtol=0)


def test_scaling_only_centres_a_constant_channel():
    pixels = torch.full((4, 1, 2, 2), 51, dtype=torch.uint8)
    assert_close(Scaling.of(pixels, torch.arange(4))(pixels), torch.zeros(4, 1, 2, 2))


def test_rows_without():
    assert rows_without(4, torch.tensor([1, 3])).tolist() == [0, 2]
    assert rows_without(2, None).tolist() == [0, 1]


@pytest.mark.parametrize(
    "parts, message",
    [
        ({"labels": torch.zeros(4, dtype=torch.long)}, "3 samples and 4 labels"),
        ({"truth": torch.zeros(2, dtype=torch.long)}, "3 samples and 2 true labels"),
        ({"mask": torch.ones(2, 2, dtype=torch.bool)}, "3 samples and 2 mask rows"),
    ],
)
def test_lengths_must_agree(parts, message):
    with pytest.raises(DataError, match=message):
        InMemory(torch.zeros(3, 2), **{"labels": torch.tensor([0, 1, 1]), **parts})


def test_an_absurd_label_makes_no_million_classes():
    with pytest.raises(DataError, match="label 1000000000 means 1000000001 classes, more than the 2 rows"):
        InMemory(torch.zeros(2, 1), torch.tensor([0, 10**9]))
