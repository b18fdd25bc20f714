"""What averages of weights share: what they collect, and the net that they give. The training itself is never changed."""

from abc import abstractmethod
from copy import deepcopy
from typing import cast

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from limbeck.align.taps import Tapped
from limbeck.core.objective import Objective
from limbeck.data.loader import Loader
from limbeck.distiller import Distiller
from limbeck.training.callback import Callback

Weights = dict[str, Tensor]
"""Parameters by name, detached; what the distiller trains: the student and the terms' own parts."""


def weights_of(distiller: Distiller) -> Weights:
    """All parameters that the student's optimiser moves, as copies."""
    trained = {id(part) for part in distiller.trained()}
    return {name: part.detach().clone() for name, part in distiller.named_parameters() if id(part) in trained}


def moved(mean: Weights, new: Weights, share: float) -> Weights:
    """The mean, moved by this share of its way to the new weights: mean + share (new - mean)."""
    return {name: part + share * (new[name] - part) for name, part in mean.items()}


class Average(Callback):
    """Looks on while the student trains, and gives a net with averaged weights afterwards."""

    @abstractmethod
    def weights(self) -> Weights | None:
        """The average so far; None where there is none yet."""

    def averaged(self, distiller: Distiller, loader: Loader | None = None) -> Tapped:
        """The net to be used: as `Distiller.deployed`, with the average in the place of the last weights.

        Before there is an average it has the present weights. Buffers are those of the student; running statistics of batch
        normalisation do not fit averaged weights and are taken anew where batches are given.

        Args:
            distiller: The one that was trained, which stays as it is.
            loader: Training batches to take the statistics from, in one pass; None keeps the student's, which is right where
                they were frozen.
        """
        mean = self.weights()  # by the names that parameters have in the distiller, and so in this copy of its two parts
        copy = deepcopy(nn.ModuleDict({"student": distiller.student, "objective": distiller.objective}))
        if mean is not None:
            with torch.no_grad():
                for name, part in copy.named_parameters():
                    if name in mean:
                        part.copy_(mean[name])
        kept = Tapped(cast(Objective, copy["objective"]).deploy(cast(Tapped, copy["student"]).model))
        if loader is not None:
            device = next(kept.parameters()).device
            update_bn((batch.to(device) for batch in loader.epoch(0)), kept)
        return kept
