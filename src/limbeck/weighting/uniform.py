"""All weights 1: plain distillation."""

from typing import final

import torch
from torch import Tensor

from limbeck.weighting.weighting import Step, Weighting


@final
class Uniform(Weighting):
    """w_i = 1. Reproduces the unweighted run bit for bit.

    >>> Uniform()
    Uniform()
    """

    constant = True

    def __call__(self, step: Step) -> Tensor:
        """Ones, [B]."""
        return torch.ones_like(step.losses)

    def __repr__(self) -> str:
        return "Uniform()"
