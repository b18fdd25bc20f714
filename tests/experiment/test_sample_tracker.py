"""Each sample's last and mean weight."""

from typing import cast

import torch

from limbeck.core.batch import Batch
from limbeck.experiment.logbook import SampleTracker
from limbeck.training.training import Record, Training


def test_a_sample_that_a_batch_holds_twice_counts_twice() -> None:
    tracker = SampleTracker(4)
    for index, weights in (([3, 3, 1], [0.5, 1.0, 2.0]), ([3, 1, 0], [1.8, 0.0, 0.5])):
        batch = Batch(torch.zeros(3, 1), None, torch.tensor(index))
        tracker.after_step(cast(Training, None), Record(batch, 0.0, {}, torch.tensor(weights)))
    torch.testing.assert_close(tracker.mean, torch.tensor([0.5, 1.0, 1.0, 1.1]))
    torch.testing.assert_close(tracker.last, torch.tensor([0.5, 0.0, 1.0, 1.8]))
