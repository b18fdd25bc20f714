"""Temporally adaptive interpolated distillation (Shing et al., 2025)."""

from typing import final

import torch
from torch import Tensor

from limbeck.core.checks import fraction, not_negative
from limbeck.core.errors import UsageError
from limbeck.core.outputs import Views
from limbeck.core.term import Moment, Term
from limbeck.functional.divergences import forward_kl, full_precision, log_softmax, token_mean
from limbeck.losses.logits.chunked import Chunked
from limbeck.losses.sides import both_logits

EPSILON = 1e-15
"""Added to the loss that a change is compared with, as in the authors' code."""


@final
class TAID(Term):
    """KL(p_t || student), p_t = softmax((1 - t) student held fixed + t teacher): a target that moves from student to teacher.

    After each step with mean loss J: m <- beta m + (1 - beta) (J_before - J) / (J_before + 1e-15), and
    t <- min(end, max(start + (end - start) n / N, t + alpha sigmoid(m) (1 - t))), n of N steps; the first one only keeps its J.
    So t never falls, and grows the faster the better the student learns. t, J and m are part of the state. A term that is told
    no moment has no linear floor. A class that either side rules out (-inf) has p_t = 0, at every t.

    Args:
        start: t at first, in [0, 1]: 0.4, or 0.2 for pairs of a small gap.
        end: t at last, in [start, 1].
        alpha: How fast t may grow by itself, >= 0; 0 leaves the linear schedule.
        beta: Momentum of the relative change of the loss, in [0, 1].

    Shapes: logits [B, C], or [B, L, V] with batch.mask [B, L] -> [B].

    Raises:
        ShapeError: Student and teacher differ in their classes.
        UsageError: An argument is out of range, or there is no teacher.

    Reference: Shing, Misaki, Bao, Yokoi, Akiba, 2025, arXiv:2501.16937, sec. 3, alg. 1. Differs from the paper: KL in place of
    the cross-entropy with p_t, of the same gradient and 0 where both agree; t moves once per step of the optimiser, by the
    unweighted mean loss over the samples of all processes.

    >>> TAID()
    TAID(start=0.4, end=1, alpha=0.0005, beta=0.99)
    """

    needs = frozenset({"teacher"})
    remembers = True
    t: Tensor
    loss: Tensor
    m: Tensor
    says = ("start", "end", "alpha", "beta")

    def __init__(self, start: float = 0.4, end: float = 1.0, *, alpha: float = 5e-4, beta: float = 0.99) -> None:
        super().__init__()
        self.start, self.end = fraction(start, "TAID: start"), fraction(end, "TAID: end")
        if self.end < self.start:
            raise UsageError(f"TAID: end must be at least start, got start={start!r} and end={end!r}.")
        self.alpha = not_negative(alpha, "TAID: alpha")
        self.beta = fraction(beta, "TAID: beta")
        for name, value in (("t", self.start), ("loss", torch.inf), ("m", 0.0)):
            self.register_buffer(name, torch.tensor(value, dtype=torch.float64))
        self._progress = 0.0

    def at(self, moment: Moment) -> None:
        """How far the linear floor has risen."""
        self._progress = moment.step / moment.steps

    def forward(self, views: Views) -> Tensor:
        """One value per sample, [B]."""
        student, teacher = (full_precision(logits) for logits in both_logits(views, "TAID"))
        t = self.t.to(student.dtype)
        ruled_out = (student == -torch.inf) | (teacher == -torch.inf)
        mixed = ((1 - t) * student.detach() + t * teacher).masked_fill(ruled_out, -torch.inf)  # 0 times -inf is NaN
        target = log_softmax(mixed)
        return token_mean(forward_kl(target, log_softmax(student)), views.batch.mask)

    def remember(self, views: Views) -> None:
        """Move t by the step's loss."""
        with torch.no_grad():
            value = Chunked(self)(views) if views.student.logits.dim() == 3 else self(views)
            self.move(float(value.mean()))

    def move(self, loss: float) -> None:
        """Move t by the mean loss of a step."""
        before, floor = float(self.loss), self.start + (self.end - self.start) * self._progress
        self.loss.fill_(loss)
        if before == torch.inf:
            return
        change = (before - loss) / (before + EPSILON)
        self.m.mul_(self.beta).add_((1 - self.beta) * change)
        grown = float(self.t) + self.alpha * float(self.m.sigmoid()) * (1 - float(self.t))
        self.t.fill_(min(self.end, max(floor, grown)))
