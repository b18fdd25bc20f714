"""The contract of every balancer: the terms' losses and the inner products of their gradients -> factors on the coefficients."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Literal

from torch import Tensor

Level = Literal["none", "logits", "last_layer", "all"]


class Balancer(ABC):
    """Factors [K] on the user's coefficients, detached: the loss is sum_k c_k f_k (mean_i w_i l_k,i).

    Attributes:
        level: What the Gramian is taken of: "none" for no Gramian, the student's "logits" (cheap; each sample's logits taken as
            free), the parameters of its "last_layer" (exact for that layer), or "all" its parameters (one backward per term).
    """

    level: Level = "none"

    def check(self, names: list[str]) -> None:  # noqa: B027 - most balancers take any terms
        """Refuse terms that the balancer cannot balance; called before any work.

        Args:
            names: The terms' names, in the order of the objective.

        Raises:
            UsageError: It needs another number of terms, or others.
        """

    @abstractmethod
    def factors(self, losses: Tensor, gramian: Tensor | None) -> Tensor:
        """The factors, [K].

        Args:
            losses: [K], each term's weighted mean over the samples, times its coefficient.
            gramian: [K, K], the inner products of the gradients of `losses`; None where `level` is "none".
        """

    def figures(self) -> dict[str, float]:
        """What to log of the last step: lambda, norms, angle."""
        return {}

    def state(self) -> dict[str, Tensor]:
        """All that the next step needs, for a checkpoint."""
        return {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:  # noqa: B027 - most balancers keep nothing
        """Take back what `state` gave."""
