"""Alpha divergence between teacher and student."""

from typing import final

from torch import Tensor

from limbeck.core.checks import finite, positive
from limbeck.core.errors import UsageError
from limbeck.core.outputs import Views
from limbeck.core.term import Term
from limbeck.functional.divergences import alpha_divergence
from limbeck.losses.sides import softened_between


@final
class AlphaDivergence(Term):
    """T^2 (sum p^alpha q^(1 - alpha) - 1) / (alpha (alpha - 1)), p the teacher's, q the student's probabilities, per sample.

    Tends to KD as alpha tends to 1 and to ReverseKL as alpha tends to 0. Between the two it is at most T^2 / (alpha (1 -
    alpha)); outside it has no bound, and overflows where one side is certain of what the other rules out.

    Args:
        alpha: Neither 0 nor 1.
        T: Temperature, > 0.

    Shapes: logits [B, C], or [B, L, V] with batch.mask [B, L] -> [B].

    Raises:
        ShapeError: Student and teacher differ in their classes.
        UsageError: An argument is out of range, or there is no teacher.

    Reference: the family is Amari's (1985) with the parameter in [0, 1]; among the f-divergences of on-policy
    distillation (Song, Zheng, 2026, A survey of on-policy distillation for large language models) it is an addition of ours.

    >>> AlphaDivergence()
    AlphaDivergence(alpha=0.5, T=1)
    """

    needs = frozenset({"teacher"})
    lumps = True
    says = ("alpha", "T")

    def __init__(self, alpha: float = 0.5, T: float = 1.0) -> None:
        super().__init__()
        if finite(alpha, "AlphaDivergence: alpha") in (0, 1):
            raise UsageError(f"AlphaDivergence: alpha must be neither 0 nor 1, got {alpha!r}; take ReverseKL() or KD().")
        self.alpha = float(alpha)
        self.T = positive(T, "AlphaDivergence: T")

    def forward(self, views: Views) -> Tensor:
        """One value per sample, [B]."""
        return softened_between(views, "AlphaDivergence", lambda p, q: alpha_divergence(p, q, self.alpha), self.T)
