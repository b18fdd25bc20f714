"""One model as the teacher."""

from copy import deepcopy
from typing import final

import torch
from torch import nn

from limbeck.align.taps import Tapped, classifier_of
from limbeck.core.batch import Batch
from limbeck.core.outputs import Outputs
from limbeck.teachers.teacher import Teacher


@final
class Single(Teacher):
    """One model, always in evaluation mode.

    Args:
        model: Any module whose forward returns logits.
        trained: Whether a step updates it (KD-AIF's teacher updates); otherwise its parameters are frozen.
    """

    def __init__(self, model: nn.Module, *, trained: bool = False) -> None:
        super().__init__()
        self.tapped = Tapped(model)
        self.trained = trained
        self.tapped.requires_grad_(trained)
        self.train(False)

    def tap(self, names: tuple[str, ...]) -> None:
        """Have `forward` return these modules' outputs as features."""
        self.tapped = Tapped(self.tapped.model, names)

    def classifier(self) -> nn.Linear | None:
        """A frozen copy of the model's last linear layer; None where it has none."""
        if not any(isinstance(part, nn.Linear) for part in self.tapped.model.modules()):
            return None
        return deepcopy(classifier_of(self.tapped.model)).requires_grad_(False)

    def train(self, mode: bool = True) -> "Single":
        """Stay in evaluation mode, whatever is asked: batch normalisation and dropout must not move the target."""
        return super().train(False)

    def forward(self, batch: Batch) -> Outputs:
        """What the model says of the batch, without a graph."""
        with torch.no_grad():
            outputs: Outputs = self.tapped(batch)
        return outputs
