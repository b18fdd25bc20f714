"""Skewed reverse divergence (Ko et al., 2024)."""

from typing import final

from torch import Tensor

from limbeck.core.checks import positive, proper_fraction
from limbeck.core.outputs import Views
from limbeck.core.term import Term
from limbeck.functional.divergences import skew_kl
from limbeck.losses.sides import softened_between


@final
class SkewReverseKL(Term):
    """T^2 KL(student || alpha student + (1 - alpha) teacher), in nats, per sample; at most -T^2 log alpha.

    Tends to ReverseKL as alpha tends to 0, and is finite where that is not.

    Args:
        alpha: The student's share of the mixture, strictly between 0 and 1.
        T: Temperature, > 0.

    Shapes: logits [B, C], or [B, L, V] with batch.mask [B, L] -> [B].

    Raises:
        ShapeError: Student and teacher differ in their classes.
        UsageError: An argument is out of range, or there is no teacher.

    Reference: Ko, Kim, Chen, Yun, 2024, DistiLLM, arXiv:2402.03898, sec. 3. Differs from the paper: T^2; without its adaptive
    choice of samples.

    >>> SkewReverseKL()
    SkewReverseKL(alpha=0.1, T=1)
    """

    needs = frozenset({"teacher"})
    lumps = True
    says = ("alpha", "T")

    def __init__(self, alpha: float = 0.1, T: float = 1.0) -> None:
        super().__init__()
        self.alpha = proper_fraction(alpha, "SkewReverseKL: alpha")
        self.T = positive(T, "SkewReverseKL: T")

    def forward(self, views: Views) -> Tensor:
        """One value per sample, [B]."""
        return softened_between(views, "SkewReverseKL", lambda p, q: skew_kl(q, p, self.alpha), self.T)
