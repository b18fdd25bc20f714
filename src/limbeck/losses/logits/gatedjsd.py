"""The Jensen-Shannon divergence where the student is less sure than the teacher (Kim and Baek, 2026)."""

from typing import final

from torch import Tensor

from limbeck.core.checks import positive, proper_fraction
from limbeck.core.outputs import Views
from limbeck.core.term import Term
from limbeck.functional.divergences import entropy, jensen_shannon, log_softmax, token_mean
from limbeck.losses.sides import both_logits


@final
class GatedJSD(Term):
    """g JSD_beta(teacher, student), g = sigmoid((H(student) - H(teacher)) / tau) held fixed, in nats, per sample.

    Args:
        beta: The teacher's share of the mixture, strictly between 0 and 1.
        tau: How soft the gate is, > 0.

    Shapes: logits [B, C], or [B, L, V] with batch.mask [B, L] -> [B].

    Raises:
        ShapeError: Student and teacher differ in their classes.
        UsageError: An argument is out of range, or there is no teacher.

    Reference: Kim, Baek, 2026, TSD-KD, arXiv:2603.13260, sec. 3: the method is Ranked on the opener, this on all tokens, and
    Entropy on the least sure ones. Differs from the paper: no.

    >>> GatedJSD()
    GatedJSD(beta=0.9, tau=1)
    """

    needs = frozenset({"teacher"})
    says = ("beta", "tau")

    def __init__(self, beta: float = 0.9, tau: float = 1.0) -> None:
        super().__init__()
        self.beta = proper_fraction(beta, "GatedJSD: beta")
        self.tau = positive(tau, "GatedJSD: tau")

    def forward(self, views: Views) -> Tensor:
        """One value per sample, [B]."""
        log_q, log_p = (log_softmax(logits) for logits in both_logits(views, "GatedJSD"))
        gate = self.gate(log_p, log_q)
        return token_mean(gate * jensen_shannon(log_p, log_q, self.beta), views.batch.mask)

    def gate(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        """How much a token counts, in (0, 1), without a gradient, of log-probabilities [..., C] -> [...]."""
        return ((entropy(log_q) - entropy(log_p)).detach() / self.tau).sigmoid()
