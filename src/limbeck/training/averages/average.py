"""What averages of weights share: what they collect, and the net that they give. The training itself is never changed."""

from abc import abstractmethod
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from limbeck.align.taps import Tapped
from limbeck.core.batch import Batch
from limbeck.core.errors import UsageError
from limbeck.core.outputs import Views
from limbeck.data.loader import Loader
from limbeck.distiller import Distiller
from limbeck.influence.restoring import evaluating, modes_restored
from limbeck.training.callback import Callback
from limbeck.training.training import Training

Weights = dict[str, Tensor]
"""Parameters by name, detached; what the distiller trains: the student and the terms' own parts."""


def weights_of(distiller: Distiller) -> Weights:
    """All parameters that the student's optimiser moves, as copies."""
    trained = {id(part) for part in distiller.trained()}
    return {name: part.detach().clone() for name, part in distiller.named_parameters() if id(part) in trained}


def moved(mean: Weights, new: Weights, share: float) -> Weights:
    """The mean, moved by this share of its way to the new weights: mean + share (new - mean)."""
    return {name: part + share * (new[name] - part) for name, part in mean.items()}


@torch.no_grad()
def put(weights: Weights, distiller: Distiller) -> None:
    """Put these weights in the place of the distiller's own."""
    for name, part in distiller.named_parameters():
        if name in weights:
            part.copy_(weights[name])


def twin(distiller: Distiller) -> Distiller:
    """A copy of what is trained, the student and the terms' own parts; all else is shared with the original."""
    shared = (distiller.teacher, distiller.weighting, distiller.balancer)
    return deepcopy(distiller, {id(part): part for part in shared})


def looked_at(training: Training, validation: Batch | None, who: str) -> Batch:
    """What a validation loss is taken on: these samples, or the query set where there are none.

    Raises:
        UsageError: There is neither.
    """
    batch = training.queries if validation is None else validation
    if batch is None or not len(batch):
        raise UsageError(f"{who}: needs validation samples; pass validation=..., or queries=... to fit.")
    return batch.to(training.engine.device)


def validation_loss(distiller: Distiller, batch: Batch) -> float:
    """The mean label loss of the net that would be kept, in evaluation mode."""
    with evaluating(distiller.student), torch.no_grad():
        return float(distiller.task().query_loss(distiller.student, batch).double().mean())


class Average(Callback):
    """Looks on while the student trains, and gives a net with averaged weights afterwards."""

    def begin(self, steps: int, validation: Batch) -> None:
        """Told before a training how long it is, and on which samples choices may be made.

        Raises:
            UsageError: The training is too short for an average.
        """

    @abstractmethod
    def weights(self) -> Weights | None:
        """The average so far; None where there is none yet."""

    def place(self, distiller: Distiller, loader: Loader | None = None) -> None:
        """Put the average in the place of the distiller's last weights; before there is one, nothing changes.

        Buffers stay as they are; running statistics of batch normalisation do not fit averaged weights and are taken anew where
        batches are given. The global random numbers go on as if nothing had been.

        Args:
            distiller: The one that was trained.
            loader: Training batches to take the statistics from, in one pass; None keeps the student's, which is right where
                they were frozen.
        """
        mean = self.weights()
        if mean is None:
            return
        put(mean, distiller)
        if loader is not None:
            device, passes = next(distiller.student.parameters()).device, _Passes(distiller)
            with modes_restored(passes, training=True), torch.random.fork_rng():
                update_bn((batch.to(device) for batch in loader.epoch(0)), passes)

    def averaged(self, distiller: Distiller, loader: Loader | None = None) -> Tapped:
        """The net to be used: as `Distiller.deployed`, after `place` on a copy; the distiller stays as it is."""
        copy = twin(distiller)
        self.place(copy, loader)
        return copy.deployed()


class _Passes(nn.Module):
    """Student and terms on a batch: all whose running statistics a training batch moves, and not the teacher."""

    def __init__(self, distiller: Distiller) -> None:
        super().__init__()
        self.student, self.objective, self.teach = distiller.student, distiller.objective, distiller.teach

    def forward(self, batch: Batch) -> None:
        self.objective(Views(self.student(batch), self.teach(batch), batch))
