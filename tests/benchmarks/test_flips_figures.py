"""What `benchmarks/flips.py` makes of scores: compared within a label."""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import flips


def test_within_a_label_the_median_is_taken_off() -> None:
    found = flips.within(torch.tensor([1.0, 5.0, 2.0, 7.0, 3.0, 9.0]), torch.tensor([0, 1, 0, 1, 0, 1]))
    assert found.tolist() == [-1.0, -2.0, 0.0, 0.0, 1.0, 2.0]
