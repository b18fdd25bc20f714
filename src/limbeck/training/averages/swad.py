"""Stochastic weight averaging, densely, over the flat stretch of the validation loss (Cha et al., 2021)."""

from dataclasses import dataclass, field, replace
from typing import Any, final

from limbeck.core.batch import Batch
from limbeck.core.checks import positive, whole
from limbeck.core.errors import UsageError
from limbeck.core.shown import shown
from limbeck.training.averages.average import Average, Weights, looked_at, moved, validation_loss, weights_of
from limbeck.training.training import Record, Training


@dataclass
class Valley:
    """Which segments of a training lie in the valley of the validation loss, and the mean of their weights.

    It starts at the first segment whose loss is the least of its own and the next `patience - 1`; the threshold is `ratio` times
    the mean of these. It ends before the first segment from which on `tolerance` losses in a row all exceed the threshold.
    Segments are kept until that is known of them, at most max(patience, tolerance) at a time.

    Args:
        patience: N_s, >= 1.
        tolerance: N_e, >= 1.
        ratio: r, > 0.
    """

    patience: int
    tolerance: int
    ratio: float
    threshold: float | None = None
    ended: bool = False
    count: int = 0
    mean: Weights | None = None
    waiting: list[tuple[float, Weights]] = field(default_factory=list)

    def add(self, loss: float, weights: Weights) -> None:
        """The next segment: the validation loss at its end and the mean of the weights within."""
        if self.ended:
            return
        self.waiting.append((loss, weights))
        if self.threshold is None:
            self._begin()
        while self.threshold is not None and not self.ended and len(self.waiting) >= self.tolerance:
            self._decide()

    def result(self) -> Weights | None:
        """The mean over the valley, with what is still waiting decided by the losses that there are; None before it starts."""
        if self.threshold is None:
            return None
        rest = replace(self, waiting=list(self.waiting))
        while rest.waiting and not rest.ended:
            rest._decide()
        return rest.mean

    def _begin(self) -> None:
        losses = [loss for loss, _ in self.waiting]
        if len(losses) < self.patience:
            return
        if losses[0] == min(losses):
            self.threshold = self.ratio * sum(losses) / len(losses)
            self._take()
        else:
            self.waiting.pop(0)

    def _decide(self) -> None:
        assert self.threshold is not None
        if min(loss for loss, _ in self.waiting[: self.tolerance]) > self.threshold:
            self.ended = True
            self.waiting.clear()
        else:
            self._take()

    def _take(self) -> None:
        _, weights = self.waiting.pop(0)
        self.count += 1
        self.mean = weights if self.mean is None else moved(self.mean, weights, 1 / self.count)


@final
class SWAD(Average):
    """The mean of all weights between the step where the validation loss has come down and the one where it goes up again.

    Weights are averaged over segments of `every` steps; which segments count is said at `Valley`.

    Args:
        every: Steps of a segment, >= 1; the validation loss is taken at its end.
        patience: N_s, >= 1.
        tolerance: N_e, >= 1.
        ratio: r, > 0.
        validation: What the loss is taken on; None for the validation samples of a run by recipe, else for the query set.

    Raises:
        UsageError: An argument is out of its range, or there are no validation samples.

    Reference: Cha et al., 2021, arXiv:2102.08604, as Berezovskiy, Morozov, 2023, arXiv:2309.11446, use it for distillation.
    Differs from the papers: the validation loss is label cross-entropy of the net that would be kept.

    >>> SWAD(every=50)
    SWAD(every=50, patience=3, tolerance=6, ratio=1.3)
    """

    def __init__(
        self, every: int = 100, *, patience: int = 3, tolerance: int = 6, ratio: float = 1.3, validation: Batch | None = None
    ) -> None:
        self.every = whole(every, "SWAD: every")
        self.valley = Valley(
            whole(patience, "SWAD: patience"), whole(tolerance, "SWAD: tolerance"), positive(ratio, "SWAD: ratio")
        )
        self.validation = validation
        self.count = 0
        self.segment: Weights | None = None

    def begin(self, steps: int, validation: Batch) -> None:
        """Take these samples for the validation loss where none were named, and see that there are enough segments.

        Raises:
            UsageError: The training ends before the valley can be found.
        """
        self.validation = validation if self.validation is None else self.validation
        if self.every * self.valley.patience > steps:
            raise UsageError(
                f"SWAD: {self.valley.patience} segments of {self.every} steps are more than the {steps} steps of the training; "
                "choose a smaller `every`."
            )

    def after_step(self, training: Training, record: Record) -> None:
        """Take the student's weights in; at the end of a segment, its loss."""
        batch = looked_at(training, self.validation, "SWAD")
        self.count += 1
        new = weights_of(training.distiller)
        self.segment = new if self.segment is None else moved(self.segment, new, 1 / self.count)
        if self.count == self.every:
            self.valley.add(validation_loss(training.distiller, batch), self.segment)
            self.count, self.segment = 0, None

    def weights(self) -> Weights | None:
        """The mean over the valley."""
        return self.valley.result()

    def state(self) -> dict[str, Any]:
        """The segment at hand and the valley."""
        valley = {name: value for name, value in vars(self.valley).items() if name not in {"patience", "tolerance", "ratio"}}
        return {"count": self.count, "segment": self.segment, "valley": {**valley, "waiting": list(self.valley.waiting)}}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take back what `state` gave."""
        self.count, self.segment = state["count"], state["segment"]
        for name, value in state["valley"].items():
            setattr(self.valley, name, value)

    def __repr__(self) -> str:
        return shown(self, "every", "patience", "tolerance", "ratio", **vars(self.valley), validation=None)
