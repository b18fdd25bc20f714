"""The user's coefficients, unchanged."""

from typing import Protocol, final

import torch
from torch import Tensor


class Balancer(Protocol):
    """Losses of the terms [K] and, where at hand, their gradients' Gramian [K, K] -> factors [K] on the user's coefficients."""

    def __call__(self, losses: Tensor, gramian: Tensor | None) -> Tensor:
        """The factors, [K], detached."""


@final
class Static:
    """Factor 1 for every term.

    >>> Static()
    Static()
    """

    def __call__(self, losses: Tensor, gramian: Tensor | None) -> Tensor:
        """Ones, [K]."""
        return torch.ones_like(losses)

    def __repr__(self) -> str:
        return "Static()"
