"""The plain mean of the student's weights from some step on (Berezovskiy and Morozov, 2023)."""

import math
from typing import Any, final

from limbeck.core.batch import Batch
from limbeck.core.checks import whole
from limbeck.core.errors import UsageError
from limbeck.core.shown import shown
from limbeck.training.averages.average import Average, Weights, looked_at, moved, put, twin, validation_loss, weights_of
from limbeck.training.training import Record, Training


@final
class WAKD(Average):
    """theta <- theta + (theta_S - theta) / n after every step from `start` on: the arithmetic mean of all weights since then.

    With `every` it is the paper's variant EoA: the running mean is looked at every so many steps, and kept as it was when its
    validation loss was least. With batch normalisation the look is taken with the student's running statistics.

    Args:
        start: Steps before the first that counts, >= 0; 10 % of the training is usual.
        every: Steps between two looks, >= 1; None keeps the mean of all.
        validation: What is looked at; None for the validation samples of a run by recipe, else for the query set.

    Raises:
        UsageError: A number is not whole or too small, or there are no validation samples to look at.

    Reference: Berezovskiy, Morozov, 2023, arXiv:2309.11446; EoA: Arpit et al., 2022, arXiv:2110.10832. Differs from the papers:
    EoA goes by validation accuracy.

    >>> WAKD(start=100)
    WAKD(start=100)
    """

    def __init__(self, start: int = 5000, *, every: int | None = None, validation: Batch | None = None) -> None:
        self.start = whole(start, "WAKD: start", least=0)
        self.every = None if every is None else whole(every, "WAKD: every")
        self.validation = validation
        self.count = 0
        self.mean: Weights | None = None
        self.least = math.inf
        self.best: Weights | None = None

    def begin(self, steps: int, validation: Batch) -> None:
        """Take these samples to look at where none were named, and see that the average begins before the training ends.

        Raises:
            UsageError: It does not, or is never looked at.
        """
        self.validation = validation if self.validation is None else self.validation
        if self.start >= steps:
            raise UsageError(
                f"WAKD: start={self.start} must lie within the training, which has {steps} steps; take {steps // 10} (10 %)."
            )
        if self.every is not None and self.start + self.every > steps:
            raise UsageError(
                f"WAKD: every={self.every} after start={self.start} is beyond the {steps} steps; take a smaller one."
            )

    def after_step(self, training: Training, record: Record) -> None:
        """Take the student's weights in."""
        if training.number <= self.start:
            return
        self.count += 1
        new = weights_of(training.distiller)
        self.mean = new if self.mean is None else moved(self.mean, new, 1 / self.count)
        if self.every is not None and self.count % self.every == 0:
            self._look(training)

    def _look(self, training: Training) -> None:
        """Keep the mean as it is where it does better than ever."""
        copy = twin(training.distiller)
        assert self.mean is not None
        put(self.mean, copy)
        loss = validation_loss(copy, looked_at(training, self.validation, "WAKD"))
        if loss < self.least:
            self.least, self.best = loss, self.mean

    def weights(self) -> Weights | None:
        """The mean, or what it was when it did best."""
        return self.mean if self.best is None else self.best

    def state(self) -> dict[str, Any]:
        """The mean, how many it is of, and when it did best."""
        return {"mean": self.mean, "count": self.count, "least": self.least, "best": self.best}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take back what `state` gave."""
        self.mean, self.count, self.least, self.best = (state[name] for name in ("mean", "count", "least", "best"))

    def __repr__(self) -> str:
        return shown(self, "start", validation=None)
