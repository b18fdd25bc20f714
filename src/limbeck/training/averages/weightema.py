"""The exponential mean of the student's weights."""

from typing import Any, final

from limbeck.core.checks import fraction
from limbeck.core.shown import shown
from limbeck.training.averages.average import Average, Weights, moved, weights_of
from limbeck.training.training import Record, Training


@final
class WeightEMA(Average):
    """theta <- d theta + (1 - d) theta_S after every step, begun at the weights after the first.

    Args:
        decay: Share of the old mean, in [0, 1].

    Raises:
        UsageError: decay lies outside [0, 1].

    Reference: Polyak, Juditsky, 1992, in its exponential form. Differs: no correction for the start.

    >>> WeightEMA(0.99)
    WeightEMA(decay=0.99)
    """

    def __init__(self, decay: float = 0.999) -> None:
        self.decay = fraction(decay, "WeightEMA: decay")
        self.mean: Weights | None = None

    def after_step(self, training: Training, record: Record) -> None:
        """Take the student's weights in."""
        new = weights_of(training.distiller)
        self.mean = new if self.mean is None else moved(self.mean, new, 1 - self.decay)

    def weights(self) -> Weights | None:
        """The mean."""
        return self.mean

    def state(self) -> dict[str, Any]:
        """The mean."""
        return {"mean": self.mean}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take back what `state` gave."""
        self.mean = state["mean"]

    def __repr__(self) -> str:
        return shown(self, "decay")
