"""What `benchmarks/flips.py` makes of scores: compared within a label, and influence on the margin."""

import sys
from pathlib import Path

import torch
from torch import nn
from torch.testing import assert_close

from limbeck.align.taps import Tapped
from limbeck.core.batch import Batch
from limbeck.core.objective import as_objective
from limbeck.losses.labels.ce import CE
from support.makers import labels, normal

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import flips


def test_within_a_label_the_median_is_taken_off() -> None:
    found = flips.within(torch.tensor([1.0, 5.0, 2.0, 7.0, 3.0, 9.0]), torch.tensor([0, 1, 0, 1, 0, 1]))
    assert found.tolist() == [-1.0, -2.0, 0.0, 0.0, 1.0, 2.0]


def test_the_margin_is_the_log_odds_against_the_right_class() -> None:
    """With two classes the difference of their logits: it falls as the right one grows, at the same rate wherever it stands."""
    model = Tapped(nn.Linear(4, 3)).double()
    batch = Batch(normal(6, 4), labels(6, classes=3), torch.arange(6))
    right = model(batch).logits.softmax(1).gather(1, batch.targets.unsqueeze(1)).squeeze(1)
    assert_close(flips.Margin(as_objective(CE()), None).query_loss(model, batch), ((1 - right) / right).log())
    two = Tapped(nn.Linear(4, 2)).double()
    own = labels(6, classes=2)
    logits = two(batch).logits
    wanted = torch.where(own == 0, logits[:, 1] - logits[:, 0], logits[:, 0] - logits[:, 1])
    assert_close(flips.Margin(as_objective(CE()), None).query_loss(two, Batch(batch.inputs, own, batch.index)), wanted)
