"""Adaptive off-policy training: the student's texts as often as it needs them, and used again (DistiLLM, 2024)."""

from dataclasses import replace
from typing import Any, Literal, final

import torch

from limbeck.core.batch import Batch
from limbeck.core.checks import not_negative, positive, whole
from limbeck.core.errors import UsageError
from limbeck.core.shown import shown
from limbeck.data.loader import Loader
from limbeck.data.seeding import generator_for
from limbeck.llm.completions import STREAM, Completions, chance
from limbeck.training.averages.average import validation_loss
from limbeck.training.training import Record, Training
from limbeck.training.weighted import weighted_backward

Choice = Literal["write", "replay", "data"]


@final
class Threshold:
    """How often the student's own texts are used: phi rises by `rise` whenever the validation loss rose by `tolerance`, to 1.

    Args:
        rise: What is added, > 0.
        tolerance: The least rise of the loss since the last time that phi rose (or since the first look), in nats, >= 0.

    Raises:
        UsageError: A value is out of its range.

    Reference: Ko et al., 2024, arXiv:2402.03898, adaptive off-policy approach.
    """

    def __init__(self, rise: float = 0.1, tolerance: float = 0.1) -> None:
        self.rise, self.tolerance = positive(rise, "Threshold: rise"), not_negative(tolerance, "Threshold: tolerance")
        self.value = 0.0
        self.loss: float | None = None

    def see(self, loss: float) -> None:
        """Take note of a validation loss."""
        if self.loss is None:
            self.loss = loss
        elif loss >= self.loss + self.tolerance:
            self.value, self.loss = min(1.0, self.value + self.rise), loss

    def choose(self, drawn: float, past: float, *, full: bool) -> Choice:
        """Where a batch comes from.

        Args:
            drawn: A uniform number in [0, 1).
            past: The share of the training that is over, in [0, 1].
            full: Whether the store of texts is full.
        """
        if drawn < self.value * (1 - past) or (drawn < self.value and not full):
            return "write"
        return "replay" if drawn < self.value else "data"


@final
class AdaptiveReplay:
    """The student's own texts with chance phi, which rises when the validation loss does; old ones are replayed.

    A step draws u. u < phi (1 - step / steps), or u < phi while the store is not full: the student writes, and the texts are
    stored. Else u < phi: rows of the store are trained on again. Else: the data. The query set stands for validation.

    Args:
        capacity: Rows that are stored; the oldest give way, >= 1.
        every: Steps from one look at the validation loss to the next, >= 1; None: an epoch.
        rise: What phi rises by, > 0.
        tolerance: The rise of the loss that phi answers to, in nats, >= 0.
        length: Tokens of a completion at most, >= 1.
        temperature: Of the drawing, >= 0; 0 takes the most probable token.
        top_p: In (0, 1]: draw among the most probable tokens of this mass.
        context: Tokens of each row that stay as they are, at least, >= 1; for packed rows, which have no prompt.

    Raises:
        UsageError: An argument is out of its range, there is no query set, or the run cannot be trained on rollouts.

    Reference: Ko et al., 2024, arXiv:2402.03898, adaptive off-policy approach. Differs: validation is the query set's.

    >>> AdaptiveReplay()
    AdaptiveReplay(capacity=1000)
    """

    trains_teacher = False
    writes = True

    def __init__(
        self,
        capacity: int = 1000,
        *,
        every: int | None = None,
        rise: float = 0.1,
        tolerance: float = 0.1,
        length: int = 128,
        temperature: float = 1.0,
        top_p: float = 1.0,
        context: int = 1,
    ) -> None:
        self.capacity = whole(capacity, "AdaptiveReplay: capacity")
        self.every = None if every is None else whole(every, "AdaptiveReplay: every")
        self.completions = Completions("AdaptiveReplay", length, temperature, top_p, context)
        self.rise, self.tolerance = rise, tolerance
        self.threshold = Threshold(rise, tolerance)
        self.store: Batch | None = None
        self.counts = {"written_steps": 0, "replayed_steps": 0}
        self.loader: Loader | None = None

    def prepare(self, training: Training, loader: Loader, *, resumed: bool) -> None:
        """See that the run can be trained so, and begin with an empty store.

        Raises:
            UsageError: It cannot.
        """
        self.completions.check(training, loader, own=True)
        if training.queries is None or not len(training.queries):
            raise UsageError("AdaptiveReplay: the threshold needs a query set, but the run has none; pass queries=... to fit.")
        self.threshold, self.store, self.loader = Threshold(self.rise, self.tolerance), None, loader
        self.counts = {"written_steps": 0, "replayed_steps": 0}

    def __call__(self, training: Training, batch: Batch) -> Record:
        """One update of the student."""
        assert self.loader is not None
        self.completions.check_columns(batch)
        if training.number % (self.every or len(self.loader)) == 0:
            assert training.queries is not None
            with training.engine.autocast():
                self.threshold.see(validation_loss(training.distiller, training.queries))
        full = self.store is not None and len(self.store) >= self.capacity
        past = training.number / training.steps
        choice = self.threshold.choose(chance(self.loader, training.number), past, full=full)
        if choice == "write":
            batch = self.completions.by_student(training, batch, self.loader)
            self._keep(batch.map(training.engine.gather) if training.engine.processes > 1 else batch)
            self.counts["written_steps"] += 1
        elif choice == "replay":
            batch = self._replayed(training, len(batch))
            self.counts["replayed_steps"] += 1
        record, _ = weighted_backward(training, batch)
        training.apply()
        return replace(record, figures={**record.figures, **self.counts, "threshold": self.threshold.value})

    def _keep(self, batch: Batch) -> None:
        batch = batch.to("cpu")
        together = batch if self.store is None else Batch.concat([self.store, batch])
        self.store = together.take(slice(max(0, len(together) - self.capacity), None))

    def _replayed(self, training: Training, count: int) -> Batch:
        """`count` rows of the store, drawn by (seed, step), for each process others; no row twice while there are enough."""
        assert self.loader is not None
        assert self.store is not None
        order = torch.randperm(len(self.store), generator=generator_for(self.loader.seed, STREAM, training.number, 0, 1))
        places = (training.engine.rank * count + torch.arange(count)) % len(order)
        return self.store.take(order[places]).to(training.engine.device)

    def state(self) -> dict[str, Any]:
        """The threshold, the store, and how often each was used."""
        store = self.store
        kept = None if store is None else [store.inputs, store.targets, store.index, store.mask]
        return {"threshold": [self.threshold.value, self.threshold.loss], "store": kept, "counts": dict(self.counts)}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take back what `state` gave."""
        self.threshold.value, self.threshold.loss = state["threshold"]
        self.store = None if state["store"] is None else Batch(*state["store"])
        self.counts = dict(state["counts"])

    def __repr__(self) -> str:
        return shown(self, "capacity", **vars(self.completions))
