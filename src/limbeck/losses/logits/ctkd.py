"""Curriculum temperature (Li et al., 2022)."""

from typing import final

import torch
from torch import Tensor, nn

from limbeck.core.checks import finite, not_negative, positive
from limbeck.core.outputs import Views
from limbeck.core.shown import arguments
from limbeck.core.term import Moment, Term
from limbeck.functional.divergences import forward_kl
from limbeck.functional.ramps import cosine
from limbeck.losses.sides import softened_between


@final
class CTKD(Term):
    """KD whose temperature T = start + span sigmoid(theta) is learnt against the student: its gradient is turned round.

    theta receives -(1 - cos(pi epoch / epochs)) / 2 times its gradient, from `epochs` on -1 times: the temperature makes the task
    harder while the student makes the loss smaller. This is no gradient of one function of both; with theta held, in the
    student's logits, it is KD with all its derivatives. A term that is told no moment reverses in full.

    Args:
        start: Lower bound of the temperature, > 0.
        span: Width of its range, > 0.
        theta: Where its parameter starts, a finite number.
        epochs: Length of the curriculum, >= 0.

    Shapes: logits [B, C], or [B, L, V] with batch.mask [B, L] -> [B].

    Raises:
        ShapeError: Student and teacher differ in their classes.
        UsageError: An argument is out of range, or there is no teacher.

    Reference: Li, Li, Yang, Zhao, Song, Luo, Li, Yang, 2022, arXiv:2211.16231. Differs from the paper: the global
    temperature only, not that per sample; the curriculum runs within epochs. The authors' code is known by its settings.

    >>> CTKD()
    CTKD(start=1, span=20, theta=1, epochs=10)
    """

    needs = frozenset({"teacher"})

    def __init__(self, start: float = 1.0, span: float = 20.0, *, theta: float = 1.0, epochs: float = 10.0) -> None:
        super().__init__()
        self.start = positive(start, "CTKD: start")
        self.span = positive(span, "CTKD: span")
        self.first = finite(theta, "CTKD: theta")
        self.epochs = not_negative(epochs, "CTKD: epochs")
        self.theta = nn.Parameter(torch.tensor(self.first))
        self._strength = 1.0

    def at(self, moment: Moment) -> None:
        """How strongly the temperature works against the student."""
        self._strength = cosine(moment.epoch, self.epochs)

    @property
    def T(self) -> Tensor:
        """The temperature, a scalar whose derivative with respect to theta is turned round."""
        held = self.theta.detach()
        reversed_ = held - self._strength * (self.theta - held)  # the value of theta, to the last bit
        return self.start + self.span * reversed_.sigmoid()

    def forward(self, views: Views) -> Tensor:
        """One value per sample, [B]."""
        return softened_between(views, "CTKD", forward_kl, self.T)

    def extra_repr(self) -> str:
        """The arguments."""
        return arguments(self, "start", "span", "theta", "epochs", theta=self.first)
