"""Learning-rate schedules: a factor on the learning rate, from how far the training is. Knows nothing of optimizers."""

import math
from dataclasses import dataclass
from typing import Protocol, final

from limbeck.core.checks import not_negative, positive
from limbeck.core.errors import UsageError


class Schedule(Protocol):
    """A factor on the learning rate."""

    def factor(self, done: float, total: float) -> float:
        """The factor after `done` of `total` epochs; parts of an epoch count."""


@final
@dataclass(frozen=True)
class Constant:
    """1 throughout."""

    def factor(self, done: float, total: float) -> float:
        """The factor after `done` of `total` epochs."""
        return 1.0


@final
@dataclass(frozen=True)
class Cosine:
    """(1 + cos(pi t)) / 2 with t from 0 to 1 after the warm-up, during which it rises in a straight line.

    Args:
        warmup: Epochs of the warm-up, >= 0.

    Raises:
        UsageError: `warmup` is below 0.

    Reference: Loshchilov, Hutter, 2017, arXiv:1608.03983, eq. 5, without restarts. Differs from the paper: the warm-up.

    >>> [round(Cosine().factor(done, 4), 2) for done in range(5)]
    [1.0, 0.85, 0.5, 0.15, 0.0]
    """

    warmup: float = 0

    def __post_init__(self) -> None:
        not_negative(self.warmup, "Cosine: warmup")

    def factor(self, done: float, total: float) -> float:
        """The factor after `done` of `total` epochs; the first step of a warm-up is not 0 but small."""
        if done < self.warmup:
            return max(done, 0.01 * self.warmup) / self.warmup
        if total <= self.warmup:
            return 1.0
        return (1 + math.cos(math.pi * min((done - self.warmup) / (total - self.warmup), 1.0))) / 2


@final
@dataclass(frozen=True)
class Steps:
    """Multiplied by `by` at each of some epochs.

    Args:
        at: Epochs, rising, each > 0.
        by: What the learning rate is multiplied by, > 0.

    Raises:
        UsageError: The epochs do not rise, or `by` is not above 0.

    >>> [Steps(at=(2, 3), by=0.5).factor(done, 4) for done in range(4)]
    [1.0, 1.0, 0.5, 0.25]
    """

    at: tuple[int, ...] = (150, 180, 210)
    by: float = 0.1

    def __post_init__(self) -> None:
        positive(self.by, "Steps: by")
        if not self.at or list(self.at) != sorted(set(self.at)) or self.at[0] <= 0:
            raise UsageError(f"Steps: at must be rising epochs above 0, such as (150, 180, 210), got {self.at!r}.")

    def factor(self, done: float, total: float) -> float:
        """The factor after `done` of `total` epochs."""
        return self.by ** sum(done >= epoch for epoch in self.at)
