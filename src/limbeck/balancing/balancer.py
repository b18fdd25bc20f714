"""The contract of every balancer: the terms' losses and the inner products of their gradients -> factors on the coefficients."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from limbeck.core.objective import Objective

Level = Literal["none", "logits", "last_layer", "all"]


class Balancer(ABC):
    """Factors [K] on the user's coefficients, detached: the loss is sum_k c_k f_k (mean_i w_i l_k,i).

    Attributes:
        level: What the Gramian is taken of: "none" for no Gramian, the student's "logits" (cheap; each sample's logits taken as
            free), the parameters of its "last_layer" (exact for that layer), or "all" its parameters (one backward per term).
        needs_queries: Whether the Gramian has a last row and column more: the gradient of the label loss on the query set.
    """

    level: Level = "none"
    needs_queries: bool = False

    def start(self, objective: Objective) -> Tensor:
        """The factors before the first step, [K]; called once, before any work, and refuses what cannot be balanced.

        Args:
            objective: The terms to balance.

        Raises:
            UsageError: It needs another number of terms, or others.
        """
        return torch.ones(len(objective.names))

    @abstractmethod
    def factors(self, losses: Tensor, gramian: Tensor | None) -> Tensor:
        """The factors, [K].

        Args:
            losses: [K], each term's weighted mean over the samples, times its coefficient.
            gramian: [K, K] float64, the inner products of the gradients of `losses` ([K + 1, K + 1] with queries); None where
                `level` is "none" or there are no gradients. At level "logits" a common factor is open.
        """

    def figures(self) -> dict[str, float]:
        """What to log of the last step: lambda, norms, angle."""
        return {}

    def state(self) -> dict[str, Tensor]:
        """All that the next step needs, for a checkpoint."""
        return {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:  # noqa: B027 - most balancers keep nothing
        """Take back what `state` gave."""
