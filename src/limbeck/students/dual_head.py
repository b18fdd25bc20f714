"""Two classifiers on one feature whose probabilities are mixed at inference (Kang et al., 2025). Knows nothing of training."""

from dataclasses import dataclass
from typing import final

from torch import Tensor, nn

from limbeck.functional.divergences import log_mixture, log_softmax

ALPHAS = tuple(number / 20 for number in range(21))
BETAS = (0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 4.0)
"""The official grids."""


def mix(labels: Tensor, teacher: Tensor, alpha: float, beta: float) -> Tensor:
    """log(alpha softmax(labels) + (1 - alpha) softmax(teacher / beta)): log-probabilities, which serve as logits.

    Args:
        labels: [..., C] logits of the head that learnt from labels.
        teacher: [..., C] logits of the head that learnt from the teacher.
        alpha: Share of the first, in [0, 1].
        beta: Temperature of the second, > 0.
    """
    first, second = log_softmax(labels), log_softmax(teacher, beta)
    if alpha in (0, 1):
        return first if alpha == 1 else second
    return log_mixture(first, second, alpha)


@dataclass(frozen=True)
class Mixture:
    """How two heads are mixed: see `mix`."""

    alpha: float
    beta: float


def best_mixture(labels: Tensor, teacher: Tensor, targets: Tensor) -> Mixture:
    """The pair of the official grids with the best accuracy on these samples; among equals the one with the lowest loss.

    It is never worse, on these samples, than either head alone: both are in the grid. Take validation samples.

    Args:
        labels: [N, C] logits of the head that learnt from labels.
        teacher: [N, C] logits of the head that learnt from the teacher.
        targets: [N] int64.
    """

    def goodness(pair: Mixture) -> tuple[float, float]:
        log_p = mix(labels.detach(), teacher.detach(), pair.alpha, pair.beta)
        right = (log_p.argmax(-1) == targets).double().mean()
        return float(right), float(log_p.gather(-1, targets.unsqueeze(-1)).double().mean())

    return max((Mixture(alpha, beta) for alpha in ALPHAS for beta in BETAS), key=goodness)


@final
class DualHead(nn.Module):
    """Two classifiers in the place of one; answers with log-probabilities.

    Args:
        labels: The classifier that learnt from labels.
        teacher: The classifier that learnt from the teacher.
        mixture: How they are mixed.

    Shapes: [..., D] -> [..., C].
    """

    def __init__(self, labels: nn.Module, teacher: nn.Module, mixture: Mixture) -> None:
        super().__init__()
        self.labels, self.teacher, self.mixture = labels, teacher, mixture

    def forward(self, features: Tensor) -> Tensor:
        """The log-probabilities of the mixture."""
        return mix(self.labels(features), self.teacher(features), self.mixture.alpha, self.mixture.beta)

    def extra_repr(self) -> str:
        """How they are mixed."""
        return f"alpha={self.mixture.alpha:g}, beta={self.mixture.beta:g}"
