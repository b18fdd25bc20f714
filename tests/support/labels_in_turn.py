"""Labels that are dealt in place of drawn ones, so that a mean over samples is the exact mean over labels."""

from itertools import product

import pytest
import torch
from torch import Tensor

from limbeck.core.batch import Batch

PLACES = ("limbeck.influence.curvature.capture.draw_labels", "limbeck.influence.curvature.diagonal.draw_labels")


def deal(monkeypatch: pytest.MonkeyPatch, inputs: Tensor, classes: int, positions: int = 1) -> Batch:
    """A batch with every sample once for each (row of) labels; whoever draws labels gets them in turn.

    Where the model holds all classes equally likely, the mean over this batch is the mean over drawn labels. With
    positions > 1 every sample has one label per position, and all their combinations come.
    """
    combinations = torch.tensor(list(product(range(classes), repeat=positions)))
    dealt = combinations.repeat(len(inputs), 1)
    dealt = dealt[:, 0] if positions == 1 else dealt
    for place in PLACES:
        monkeypatch.setattr(place, lambda logits, _generator: dealt[: len(logits)])
    monkeypatch.setattr("limbeck.influence.curvature.capture.ROWS", len(dealt))  # in one piece, or each would start anew
    rows = inputs.repeat_interleave(len(combinations), 0)
    return Batch(rows, dealt, torch.arange(len(rows)))
