import pytest
import torch
import torch.nn.functional as F

from limbeck.core.batch import Batch
from limbeck.core.errors import ShapeError, UsageError
from limbeck.transforms.crop_flip import CropFlip, crop_flip


def images(count=6, height=5, width=7):
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(0))


def batch_of(inputs):
    return Batch(inputs, torch.zeros(len(inputs), dtype=torch.long), torch.arange(len(inputs)))


def crop_flip_slow(pictures, shifts, flips, padding):
    height, width = pictures.shape[2:]
    out = []
    for picture, (top, left), flip in zip(pictures, shifts.tolist(), flips.tolist(), strict=True):
        window = F.pad(picture, [padding] * 4)[:, top : top + height, left : left + width]
        out.append(window.flip(2) if flip else window)
    return torch.stack(out)


def test_equals_the_slow_twin_at_every_shift():
    shifts = torch.cartesian_prod(torch.arange(5), torch.arange(5)).repeat_interleave(2, 0)
    flips = torch.arange(len(shifts)) % 2 == 0
    pictures = images(len(shifts))
    assert torch.equal(crop_flip(pictures, shifts, flips, 2), crop_flip_slow(pictures, shifts, flips, 2))


def test_the_middle_window_unmirrored_is_the_image():
    pictures = images()
    middle = torch.full((6, 2), 4)
    assert torch.equal(crop_flip(pictures, middle, torch.zeros(6, dtype=torch.bool), 4), pictures)


def test_mirroring_twice_gives_the_image_back():
    pictures, middle, yes = images(), torch.full((6, 2), 4), torch.ones(6, dtype=torch.bool)
    assert torch.equal(crop_flip(crop_flip(pictures, middle, yes, 4), middle, yes, 4), pictures)


def test_the_generator_decides_all_and_the_batch_stays_as_it_is():
    batch, change = batch_of(images(64)), CropFlip(2)
    before = batch.inputs.clone()
    state = torch.get_rng_state()
    one, same, other = (change(batch, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert torch.equal(one.inputs, same.inputs)
    assert not torch.equal(one.inputs, other.inputs)
    assert torch.equal(batch.inputs, before)
    assert torch.equal(one.targets, batch.targets)
    assert torch.equal(one.index, batch.index)
    assert torch.equal(torch.get_rng_state(), state)


def test_about_half_is_mirrored_and_all_shifts_occur():
    ramp = torch.arange(64.0).view(1, 1, 8, 8).repeat(2000, 1, 1, 1) + 1
    moved = CropFlip(padding=0)(batch_of(ramp), torch.Generator().manual_seed(0)).inputs
    mirrored = (moved[:, 0, 0, 0] == 8).float().mean()
    assert 0.45 < float(mirrored) < 0.55
    kept = CropFlip(padding=1, flip=False)(batch_of(ramp), torch.Generator().manual_seed(0)).inputs
    assert len(kept.flatten(1).unique(dim=0)) == 9


def test_what_it_cannot_change_is_refused():
    with pytest.raises(
        ShapeError, match=r"CropFlip: images \[B, C, H, W\] are needed, got inputs \[2, 3\]; leave the transform out."
    ):
        CropFlip()(batch_of(torch.zeros(2, 3)), torch.Generator())
    with pytest.raises(ShapeError, match=r"CropFlip: padding=4 can cut away half of an image of 8 x 9; take at most padding=3\."):
        CropFlip()(batch_of(torch.zeros(2, 1, 8, 9)), torch.Generator())
    with pytest.raises(UsageError, match="CropFlip: padding must be a whole number of at least 0, got -1"):
        CropFlip(padding=-1)
    assert repr(CropFlip()) == "CropFlip(padding=4, flip=True)"
