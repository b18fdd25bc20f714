"""Optimizers as a recipe names them: settings first, built for the parameters later, once per seed."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, final

import torch
from torch import nn

from limbeck.core.checks import not_negative, positive
from limbeck.core.errors import UsageError


class OptimizerSpec(Protocol):
    """Settings of an optimizer.

    Attributes:
        lr: The learning rate before any schedule.
    """

    @property
    def lr(self) -> float:
        """The learning rate before any schedule."""

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """The optimizer of these parameters."""


@final
@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent.

    Args:
        lr: Learning rate, > 0.
        momentum: In [0, 1).
        weight_decay: Added to the gradient times the parameter, >= 0.
        nesterov: Look ahead along the momentum.

    Raises:
        UsageError: A value is out of its range, or `nesterov` without momentum.
    """

    lr: float
    momentum: float = 0.9
    weight_decay: float = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        _check(self.lr, self.weight_decay, "SGD")
        if not_negative(self.momentum, "SGD: momentum") >= 1:
            raise UsageError(f"SGD: momentum must lie in [0, 1), got {self.momentum!r}.")
        if self.nesterov and self.momentum == 0:
            raise UsageError("SGD: nesterov needs a momentum above 0.")

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """The optimizer of these parameters."""
        return torch.optim.SGD(
            some(parameters), lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay, nesterov=self.nesterov
        )


@final
@dataclass(frozen=True)
class Adam:
    """Adam.

    Args:
        lr: Learning rate, > 0.
        weight_decay: Added to the gradient times the parameter, >= 0.

    Raises:
        UsageError: A value is out of its range.

    Reference: Kingma, Ba, 2015, arXiv:1412.6980. Differs from the paper: no.
    """

    lr: float
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        _check(self.lr, self.weight_decay, "Adam")

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """The optimizer of these parameters."""
        return torch.optim.Adam(some(parameters), lr=self.lr, weight_decay=self.weight_decay)


@final
@dataclass(frozen=True)
class AdamW:
    """Adam with weight decay beside the gradient, not in it.

    Args:
        lr: Learning rate, > 0.
        weight_decay: Share of the parameter taken off per step and learning rate, >= 0.

    Raises:
        UsageError: A value is out of its range.

    Reference: Loshchilov, Hutter, 2019, arXiv:1711.05101. Differs from the paper: no.
    """

    lr: float
    weight_decay: float = 0.01

    def __post_init__(self) -> None:
        _check(self.lr, self.weight_decay, "AdamW")

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """The optimizer of these parameters."""
        return torch.optim.AdamW(some(parameters), lr=self.lr, weight_decay=self.weight_decay)


def some(parameters: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    """The parameters, of which there is at least one.

    Raises:
        UsageError: There is none.
    """
    found = list(parameters)
    if not found:
        raise UsageError(
            "optimizer: all parameters of the net are frozen, so that there is nothing to train; leave out its "
            "requires_grad_(False), or take a teacher as it is by teacher_epochs: 0."
        )
    return found


def _check(lr: float, weight_decay: float, who: str) -> None:
    positive(lr, f"{who}: lr")
    not_negative(weight_decay, f"{who}: weight_decay")
