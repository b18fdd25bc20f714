"""Balanced forward and reverse divergence (BD-KD, 2022): the student's part."""

from typing import final

from torch import Tensor

from limbeck.core.checks import not_negative, positive
from limbeck.core.outputs import Views
from limbeck.core.term import Term
from limbeck.functional.divergences import entropy, forward_kl, reverse_kl
from limbeck.losses.sides import softened_between


@final
class BDKD(Term):
    """T^2 (d KL(teacher || student) + (1 + nu - d) KL(student || teacher)), d by the entropies and held fixed, per sample.

    d = nu where the student's entropy is below the teacher's (too sure of itself: spread it), else 1 (sharpen it). With kappa
    the change is smooth, d = 1 + (nu - 1) sigmoid((H_teacher - H_student) / kappa).

    Args:
        nu: Weight of the favoured side, > 0; 1 is the symmetric form, without regard to entropies.
        T: Temperature, > 0.
        kappa: Width of the change, in nats, >= 0; 0 is the hard rule.

    Shapes: logits [B, C], or [B, L, V] with batch.mask [B, L] -> [B].

    Raises:
        ShapeError: Student and teacher differ in their classes.
        UsageError: An argument is out of range, or there is no teacher.

    Reference: BD-KD: balancing the divergences for online knowledge distillation, 2022, arXiv:2212.12965. Differs from the paper:
    which side is favoured when, nu and kappa are reconstructed from its idea; with a frozen teacher it is the offline use.

    >>> BDKD()
    BDKD(nu=2, T=1, kappa=0)
    """

    needs = frozenset({"teacher"})
    says = ("nu", "T", "kappa")

    def __init__(self, nu: float = 2.0, T: float = 1.0, *, kappa: float = 0.0) -> None:
        super().__init__()
        self.nu = positive(nu, "BDKD: nu")
        self.T = positive(T, "BDKD: T")
        self.kappa = not_negative(kappa, "BDKD: kappa")

    def forward(self, views: Views) -> Tensor:
        """One value per sample, [B]."""
        return softened_between(views, "BDKD", self.balanced, self.T)

    def balanced(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        """Both divergences of log-probabilities [..., C] with their weights -> [...]."""
        gap = (entropy(log_p) - entropy(log_q)).detach()
        over = (gap / self.kappa).sigmoid() if self.kappa else (gap > 0).to(gap.dtype)
        forward = 1 + (self.nu - 1) * over
        return forward * forward_kl(log_p, log_q) + (1 + self.nu - forward) * reverse_kl(log_p, log_q)
