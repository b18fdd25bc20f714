from pathlib import Path

import pytest
import torch

from limbeck.data.source import InMemory


@pytest.fixture
def shared_data() -> Path:
    folder = Path(__file__).parents[2] / ".." / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the shared data are not here")
    return folder


@pytest.fixture
def blobs() -> InMemory:
    """300 rows of 5 features, three classes of 100."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(3).repeat(100)
    inputs = torch.randn(300, 5, generator=generator) + labels[:, None]
    return InMemory(inputs, labels, classes=("a", "b", "c"), name="Blobs()")
