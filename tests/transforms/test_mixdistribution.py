"""Images in the colours of others, against the numbers of kd3.md."""

import pytest
import torch
from torch.testing import assert_close

from limbeck.core.batch import Batch
from limbeck.core.errors import ShapeError
from limbeck.transforms.mixdistribution import MixDistribution, mixed_distribution

IMAGES = torch.tensor([((7 * i) % 11 - 5) / 5 for i in range(16)], dtype=torch.float64).view(2, 2, 2, 2)
SWAP, SHARE = torch.tensor([1, 0]), torch.tensor([0.3, 0.3])


def test_golden_numbers() -> None:
    found = mixed_distribution(IMAGES, SWAP, SHARE.double())[0, 0]
    wanted = torch.tensor([[-1.117163, 0.103865], [-0.593865, 0.627163]], dtype=torch.float64)
    assert_close(found, wanted, rtol=0, atol=2e-6)
    assert float(found.mean()) == pytest.approx(-0.245, abs=1e-6)
    assert float(found.std()) == pytest.approx(0.766975, abs=2e-6)


def test_an_image_that_keeps_its_own_stays_as_it_is() -> None:
    assert_close(mixed_distribution(IMAGES, SWAP, torch.ones(2)), IMAGES)
    assert_close(mixed_distribution(IMAGES, torch.arange(2), SHARE), IMAGES)


def test_the_generator_decides_all_and_labels_stay() -> None:
    batch = Batch(torch.randn(8, 3, 4, 4, generator=torch.Generator().manual_seed(0)), torch.arange(8), torch.arange(8))
    one, same, other = (MixDistribution(1.0)(batch, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert torch.equal(one.inputs, same.inputs)
    assert not torch.equal(one.inputs, other.inputs)
    assert torch.equal(one.targets, batch.targets)
    with pytest.raises(ShapeError, match=r"MixDistribution: images \[B, C, H, W\] are needed, got \[2, 3\]"):
        MixDistribution()(Batch(torch.zeros(2, 3), None, torch.arange(2)), torch.Generator())
