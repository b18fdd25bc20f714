"""All weights 1: plain distillation."""

from typing import final

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
        return step.ones

    def __repr__(self) -> str:
        return "Uniform()"
