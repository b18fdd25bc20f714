"""A temperature per token that grows with how private it is, after swing distillation (Li et al., 2022): a reconstruction."""

from typing import final

from torch import Tensor

from limbeck.core.checks import positive
from limbeck.core.errors import ShapeError, UsageError
from limbeck.core.outputs import Views
from limbeck.core.term import Term
from limbeck.functional.divergences import forward_kl, full_precision, log_softmax, token_mean
from limbeck.losses.sides import both_logits

PRIVACY = "privacy"
"""The column of a batch that says how private a sample [B] or each of its tokens [B, L] is, in [0, 1]."""


@final
class Swing(Term):
    """KL(softmax(teacher / T) || softmax(student / T)) with T = low + (high - low) s, s the token's privacy: no factor T^2.

    Where s is 1 and `high` large, both sides are flat and nothing of the teacher's answer passes over; with T^2 it would become
    regression on the very logits that are to be kept back.

    Args:
        low: Temperature of what is public, > 0.
        high: Temperature of what is private, >= low.

    Shapes: logits [B, C] and batch.meta["privacy"] [B], or [B, L, V] and [B, L] (or [B]) with batch.mask [B, L] -> [B].

    Raises:
        ShapeError: Student and teacher differ in their classes, or the privacy scores do not fit the logits.
        UsageError: An argument is out of range, there is no teacher, or the scores are missing or not in [0, 1].

    Reference: Li et al., 2022, arXiv:2212.08349. Differs from the paper: it is after the abstract, from temperature as a function
    of a score; the linear form and its bounds are reconstructed. Without the noise on the targets, which belongs where a
    teacher's answers are stored. No differential privacy is claimed.

    >>> Swing()
    Swing(low=1, high=10)
    """

    needs = frozenset({"teacher"})
    compiles = False  # the range of the scores is checked in every batch
    says = ("low", "high")

    def __init__(self, low: float = 1.0, high: float = 10.0) -> None:
        super().__init__()
        self.low, self.high = positive(low, "Swing: low"), positive(high, "Swing: high")
        if self.high < self.low:
            raise UsageError(f"Swing: high must be at least low, got low={low!r} and high={high!r}.")

    def forward(self, views: Views) -> Tensor:
        """One value per sample, [B]."""
        student, teacher = both_logits(views, "Swing")
        scores = privacy_of(views, "Swing").to(full_precision(student).dtype)
        T = (self.low + (self.high - self.low) * scores).unsqueeze(-1)
        return token_mean(forward_kl(log_softmax(teacher, T), log_softmax(student, T)), views.batch.mask)


def privacy_of(views: Views, who: str) -> Tensor:
    """How private every row of logits is: [B], or [B, L]; what is said of a sample holds for all its tokens.

    Raises:
        ShapeError: The scores do not fit the logits.
        UsageError: There are none, or a counted one lies outside [0, 1].
    """
    batch, rows = views.batch, views.student.logits.shape[:-1]
    if PRIVACY not in batch.meta:
        raise UsageError(f"{who} needs the column {PRIVACY!r}, but the batch has none; have the data give it, in [0, 1].")
    scores = batch.meta[PRIVACY]
    if scores.dim() == 1 and len(rows) == 2:
        scores = scores.unsqueeze(1).expand(rows)
    if scores.shape != rows:
        raise ShapeError(f"{who}: {PRIVACY} must be {list(rows)}, as the logits, got {list(scores.shape)}.")
    if batch.mask is not None and batch.mask.shape == scores.shape:
        scores = scores.where(batch.mask, 0)
    if not ((scores >= 0) & (scores <= 1)).all():
        raise UsageError(f"{who}: {PRIVACY} must lie in [0, 1], got {float(scores.min()):g} to {float(scores.max()):g}.")
    return scores
