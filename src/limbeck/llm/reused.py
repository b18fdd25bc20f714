"""Completions that several steps train on, one after the other."""

from typing import Any, final

from limbeck.core.batch import Batch
from limbeck.training.training import Training


@final
class Reused:
    """The batch of all processes that was written last, for `times` steps; a resumed run goes on with it.

    Args:
        times: Steps that train on the same batch, >= 1.
    """

    def __init__(self, times: int) -> None:
        self.times = times
        self.whole: Batch | None = None

    def begin(self) -> None:
        """Nothing was written yet."""
        self.whole = None

    def due(self, step: int) -> bool:
        """Whether it is time for another batch."""
        return step % self.times == 0

    def keep(self, training: Training, batch: Batch | None) -> None:
        """Take this process's part of a batch; None where the data's own batches are to be trained on."""
        engine = training.engine
        self.whole = batch if batch is None or engine.processes == 1 else batch.map(engine.gather)

    def batch(self, training: Training) -> Batch | None:
        """This process's part of what was written last."""
        return None if self.whole is None else training.engine.shard(self.whole)

    def state(self) -> dict[str, Any] | None:
        """What was written last; nothing where no further step needs it."""
        kept = self.whole
        if kept is None or self.times == 1:
            return None
        return {"parts": [kept.inputs, kept.targets, kept.index, kept.mask], "meta": dict(kept.meta)}

    def load_state(self, state: dict[str, Any] | None) -> None:
        """Take back what `state` gave."""
        if state is None:
            self.whole = None
            return
        inputs, targets, index, mask = state["parts"]
        self.whole = Batch(inputs, targets, index, mask, state["meta"])
