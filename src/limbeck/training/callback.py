"""What may look on while the loop runs."""

from typing import Any

from limbeck.training.training import Record, Training


class Callback:
    """Looks on after each step and each epoch; changes nothing of the training. Its state is part of the checkpoint."""

    def after_step(self, training: Training, record: Record) -> None:
        """Called after each step; `training.number` counts it already."""

    def after_epoch(self, training: Training) -> None:
        """Called after the last step of each epoch, and after the last step of all."""

    def state(self) -> dict[str, Any]:
        """Tensors and plain values to keep."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take back what `state` gave."""
