"""A teacher that is the running mean of its student (Tarvainen and Valpola, 2017)."""

from typing import Any, final

import torch

from limbeck.core.batch import Batch
from limbeck.core.checks import fraction
from limbeck.core.errors import UsageError
from limbeck.core.shown import shown
from limbeck.data.loader import Loader
from limbeck.teachers.single import Single
from limbeck.training.training import Record, Training
from limbeck.training.weighted import weighted_backward


@final
class MeanTeacher:
    """After each step theta_T <- d theta_T + (1 - d) theta_S; d = min(decay, 1 - 1 / n) at step n.

    The teacher is of the student's architecture and needs no training of its own: it begins as a copy of the student, whatever
    it held. Buffers (running statistics) are copied.

    Args:
        decay: The largest share of the old mean, in [0, 1].

    Raises:
        UsageError: decay lies outside [0, 1], or the teacher is not one model of the student's architecture.

    Reference: Tarvainen, Valpola, 2017, arXiv:1703.01780. Differs from the paper: the consistency loss is the objective's own
    (KD in the place of squared error), both sides see the same input, and the teacher answers in evaluation mode.

    >>> MeanTeacher(0.99)
    MeanTeacher(decay=0.99)
    """

    trains_teacher = True
    writes = False

    def __init__(self, decay: float = 0.999) -> None:
        self.decay = fraction(decay, "MeanTeacher: decay")

    def prepare(self, training: Training, loader: Loader, *, resumed: bool) -> None:
        """See that the teacher can follow, and begin with a copy.

        Raises:
            UsageError: It is missing, or not of the student's architecture.
        """
        own = {name: part.shape for name, part in training.distiller.student.model.state_dict().items()}
        teacher = training.distiller.teacher
        shapes = {n: p.shape for n, p in teacher.tapped.model.state_dict().items()} if isinstance(teacher, Single) else None
        if shapes != own:
            raise UsageError(
                "MeanTeacher: the teacher must be one model of the student's architecture; name the same net for both, in Python "
                "teacher=Single(copy.deepcopy(student))."
            )
        if not resumed:
            assert isinstance(teacher, Single)
            follow(teacher.tapped.model, training.distiller.student.model, 0.0)

    def __call__(self, training: Training, batch: Batch) -> Record:
        """One update of the student, then the teacher follows."""
        record, _ = weighted_backward(training, batch)
        training.apply()
        assert isinstance(training.distiller.teacher, Single)
        follow(training.distiller.teacher.tapped.model, training.distiller.student.model, self.share(training.number + 1))
        return record

    def share(self, number: int) -> float:
        """The share of the old mean at step `number`, counted from 1."""
        return min(self.decay, 1 - 1 / number)

    def state(self) -> dict[str, Any]:
        """Nothing beside the teacher, which the checkpoint has."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Nothing to take back."""

    def __repr__(self) -> str:
        return shown(self, "decay")


@torch.no_grad()
def follow(mean: torch.nn.Module, model: torch.nn.Module, share: float) -> None:
    """The mean becomes share mean + (1 - share) model for the parameters; buffers are copied."""
    for own, other in zip(mean.parameters(), model.parameters(), strict=True):
        own.copy_(share * own + (1 - share) * other)
    for kept, new in zip(mean.buffers(), model.buffers(), strict=True):
        kept.copy_(new)
