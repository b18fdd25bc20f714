"""The contract of every mixture: the domains' losses -> their shares of what is drawn. Knows nothing of sources."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class DomainLosses:
    """How well student and teacher do on each of G domains.

    Args:
        student: [G] float64, the mean cross-entropy on the domain's held-out samples, of a token for language, in nats.
        teacher: [G], the teacher's.
    """

    student: Tensor
    teacher: Tensor


class Mixture(ABC):
    """Shares [G] of the domains, float64, at least 0, of sum 1: at first, then anew every `every` steps.

    Attributes:
        every: Steps from one renewal to the next, >= 1.
        needs_losses: Whether it looks at losses; measuring them costs a pass over the query set each time.
    """

    every: int = 1000
    needs_losses: bool = True

    @abstractmethod
    def start(self, sizes: Tensor, losses: DomainLosses | None) -> Tensor:
        """The shares before the first step, [G]; forgets an earlier run.

        Args:
            sizes: [G], training rows of each domain, all above 0.
            losses: As they are now; None where `needs_losses` is false.

        Raises:
            UsageError: It is made for another number of domains.
        """

    @abstractmethod
    def renew(self, losses: DomainLosses | None) -> Tensor:
        """The shares until the next renewal, [G]."""

    def figures(self) -> dict[str, Tensor]:
        """What to log of the last renewal beside the shares: name -> [G]."""
        return {}

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """All that the next renewal needs, for a checkpoint: a run that goes on has no `start`."""

    @abstractmethod
    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `state` gave."""
