"""Generalised Jensen-Shannon divergence (Agarwal et al., 2023)."""

from typing import final

from torch import Tensor

from limbeck.core.checks import positive, proper_fraction
from limbeck.core.outputs import Views
from limbeck.core.term import Term
from limbeck.functional.divergences import jensen_shannon
from limbeck.losses.sides import softened_between


@final
class JSD(Term):
    """T^2 (beta KL(teacher || m) + (1 - beta) KL(student || m)), m = beta teacher + (1 - beta) student, per sample.

    At most T^2 log 2. JSD / beta tends to KL(teacher || student) as beta tends to 0, JSD / (1 - beta) to the reverse as it
    tends to 1; JSD itself tends to 0, which is why neither is taken as a value.

    Args:
        beta: The teacher's share of the mixture, strictly between 0 and 1.
        T: Temperature, > 0.

    Shapes: logits [B, C], or [B, L, V] with batch.mask [B, L] -> [B].

    Raises:
        ShapeError: Student and teacher differ in their classes.
        UsageError: An argument is out of range, or there is no teacher.

    Reference: Agarwal et al., 2023, GKD, arXiv:2306.13649, sec. 3. Differs from the paper: T^2; beta of 0 and 1 are not taken for
    the two KLs, as other libraries do.

    >>> JSD()
    JSD(beta=0.5, T=1)
    """

    needs = frozenset({"teacher"})
    lumps = True
    says = ("beta", "T")

    def __init__(self, beta: float = 0.5, T: float = 1.0) -> None:
        super().__init__()
        self.beta = proper_fraction(beta, "JSD: beta")
        self.T = positive(T, "JSD: T")

    def forward(self, views: Views) -> Tensor:
        """One value per sample, [B]."""
        return softened_between(views, "JSD", lambda p, q: jensen_shannon(p, q, self.beta), self.T)
