"""The plain mean of the student's weights from some step on (Berezovskiy and Morozov, 2023)."""

from typing import Any, final

from limbeck.core.batch import Batch
from limbeck.core.checks import whole
from limbeck.core.errors import UsageError
from limbeck.training.averages.average import Average, Weights, moved, weights_of
from limbeck.training.training import Record, Training


@final
class WAKD(Average):
    """theta <- theta + (theta_S - theta) / n after every step from `start` on: the arithmetic mean of all weights since then.

    Args:
        start: Steps before the first that counts, >= 0; 10 % of the training is usual.

    Raises:
        UsageError: start is no whole number of at least 0.

    Reference: Berezovskiy, Morozov, 2023, arXiv:2309.11446. Differs from the paper: no.

    >>> WAKD(start=100)
    WAKD(start=100)
    """

    def __init__(self, start: int = 5000) -> None:
        self.start = whole(start, "WAKD: start", least=0)
        self.count = 0
        self.mean: Weights | None = None

    def begin(self, steps: int, validation: Batch) -> None:
        """See that the average begins before the training ends.

        Raises:
            UsageError: It does not.
        """
        if self.start >= steps:
            raise UsageError(
                f"WAKD: start={self.start} must lie within the training, which has {steps} steps; take {steps // 10} (10 %)."
            )

    def after_step(self, training: Training, record: Record) -> None:
        """Take the student's weights in."""
        if training.number <= self.start:
            return
        self.count += 1
        new = weights_of(training.distiller)
        self.mean = new if self.mean is None else moved(self.mean, new, 1 / self.count)

    def weights(self) -> Weights | None:
        """The mean."""
        return self.mean

    def state(self) -> dict[str, Any]:
        """The mean and how many it is of."""
        return {"mean": self.mean, "count": self.count}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take back what `state` gave."""
        self.mean, self.count = state["mean"], state["count"]

    def __repr__(self) -> str:
        return f"WAKD(start={self.start})"
