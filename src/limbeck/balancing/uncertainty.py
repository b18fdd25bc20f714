"""Terms weighed by their own uncertainty (Kendall et al., 2018)."""

from collections.abc import Mapping
from typing import final

import torch
from torch import Tensor

from limbeck.balancing.balancer import Balancer
from limbeck.core.checks import positive
from limbeck.core.objective import Objective
from limbeck.core.shown import shown


@final
class Uncertainty(Balancer):
    """Factor exp(-s_k) for term k, with s_k moved down the gradient of sum_k exp(-s_k) L_k + s_k / 2, from s = 0.

    s_k is the log-variance of term k. For a loss that stays as it is, s_k tends to log 2 L_k, where all terms weigh the same.

    Args:
        lr: Step size of s, > 0.

    Raises:
        UsageError: lr is not above 0.

    Reference: Kendall, Gal, Cipolla, 2018, arXiv:1705.07115, sec. 3.2, eq. 10. Differs from the paper: s takes its own plain
    gradient steps instead of the network's optimiser. The losses must be 0 or above, as theirs are.

    >>> Uncertainty()
    Uncertainty(lr=0.01)
    """

    def __init__(self, lr: float = 0.01) -> None:
        self.lr = positive(lr, "Uncertainty: lr")

    def start(self, objective: Objective) -> Tensor:
        """All log-variances 0; factors 1."""
        self.names = objective.names
        self.s = torch.zeros(len(self.names), dtype=torch.float64)
        return self.s.neg().exp()

    def factors(self, losses: Tensor, gramian: Tensor | None) -> Tensor:
        """exp(-s), [K]; then s takes its step: d/ds_k = 1 / 2 - exp(-s_k) L_k."""
        found = self.s.neg().exp()
        self.s = self.s - self.lr * (0.5 - found * losses.double().cpu())
        return found.to(losses.device)

    def figures(self) -> dict[str, float]:
        """The log-variances."""
        return {f"log_variance_{name}": value for name, value in zip(self.names, self.s.tolist(), strict=True)}

    def state(self) -> dict[str, Tensor]:
        """The log-variances."""
        return {"s": self.s}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `state` gave."""
        self.s = state["s"].cpu()

    def __repr__(self) -> str:
        return shown(self, "lr")
