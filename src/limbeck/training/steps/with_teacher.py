"""What the steps that update the teacher share: its optimiser, made on first use and kept in the checkpoint."""

from typing import Any

import torch
from torch.optim import SGD

from limbeck.core.batch import Batch
from limbeck.data.loader import Loader
from limbeck.teachers.single import Single
from limbeck.training.teacher_update import TeacherRule, teacher_optimizer, trained_teacher
from limbeck.training.training import Training


class TeacherSide:
    """The teacher of a run and its optimiser.

    Args:
        rule: The teacher's loss and step size.
        who: The step's name, for messages.
    """

    def __init__(self, rule: TeacherRule, who: str) -> None:
        self.rule = rule
        self.who = who
        self.model: Single
        self.optimizer: SGD

    def prepare(self, training: Training, loader: Loader, *, resumed: bool) -> None:
        """Find the teacher and make its optimiser.

        Raises:
            UsageError: The teacher is frozen or missing.
        """
        self.model = trained_teacher(training, self.who)
        self.optimizer = teacher_optimizer(training, self.model, self.rule)

    def step(self, training: Training) -> None:
        """Move the teacher along the gradient at hand, at its share of the student's present rate."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.rule.rate * training.learning_rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Any]:
        """The optimiser's state."""
        return {"teacher_optimizer": self.optimizer.state_dict()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take back what `state` gave."""
        self.optimizer.load_state_dict(state["teacher_optimizer"])


def ones(batch: Batch) -> torch.Tensor:
    """Weight 1 for every sample, [B]."""
    return torch.ones(len(batch), device=batch.index.device)
