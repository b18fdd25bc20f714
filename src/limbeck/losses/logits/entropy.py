"""The student's own entropy, to be made small (or large, with a coefficient below 0)."""

from typing import final

from torch import Tensor

from limbeck.core.checks import positive
from limbeck.core.outputs import Views
from limbeck.core.term import Term
from limbeck.functional.divergences import entropy, log_softmax, token_mean


@final
class Entropy(Term):
    """-sum q log q of q = softmax(student / T), in nats, per sample: between 0 and the log of the number of classes.

    Args:
        T: Temperature, > 0; without a factor T^2.

    Shapes: logits [B, C], or [B, L, V] with batch.mask [B, L] -> [B].

    Raises:
        UsageError: T is not above 0.

    Reference: Kim, Baek, 2026, TSD-KD, arXiv:2603.13260, sec. 3, as TokenSelect(Entropy(), by="uncertain"); Grandvalet, Bengio,
    2004, for classifiers. Differs from the paper: no.

    >>> Entropy()
    Entropy(T=1)
    """

    says = ("T",)

    def __init__(self, T: float = 1.0) -> None:
        super().__init__()
        self.T = positive(T, "Entropy: T")

    def forward(self, views: Views) -> Tensor:
        """One value per sample, [B]."""
        return token_mean(entropy(log_softmax(views.student.logits, self.T)), views.batch.mask)
