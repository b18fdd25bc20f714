"""All that influence must know of a problem: the loss that the weights act on, and the loss that influence is measured on."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from torch import Tensor

from limbeck.core.batch import Batch
from limbeck.core.errors import UsageError
from limbeck.core.objective import Objective
from limbeck.core.outputs import Outputs, Views
from limbeck.functional.divergences import cross_entropy, full_precision, token_mean
from limbeck.functional.target_split import others, own
from limbeck.influence.restoring import modes_restored, statistics_untouched

Forward = Callable[[Batch], Outputs]
"""A model at some parameters: what it answers to a batch."""


class Task(Protocol):
    """Two losses, one value per sample each. `student` is called with the batch, at whatever parameters influence asks about."""

    @property
    def coupled(self) -> bool:
        """Whether the training loss of a sample depends on the outputs for other samples of its batch."""

    def training_loss(self, student: Forward, batch: Batch) -> Tensor:
        """What the weights act on, [B]."""

    def query_loss(self, student: Forward, batch: Batch) -> Tensor:
        """What influence is measured on, [B]."""


@runtime_checkable
class Answering(Protocol):
    """A task whose net in use answers otherwise than by the model's own logits."""

    def answer(self, outputs: Outputs, batch: Batch) -> Tensor:
        """The logits of the net in use, from the model's outputs for the batch."""


def answer_of(task: Task, outputs: Outputs, batch: Batch) -> Tensor:
    """The logits that a Fisher matrix is of: those of the net in use, which are the model's own where the task says nothing."""
    return task.answer(outputs, batch) if isinstance(task, Answering) else outputs.logits


def label_loss(student: Forward, batch: Batch) -> Tensor:
    """Cross-entropy with the batch's labels, [B]; the mean over counted tokens for token tasks.

    Raises:
        UsageError: The batch has no labels.
    """
    return label_loss_of(student(batch).logits, batch)


def label_loss_of(logits: Tensor, batch: Batch) -> Tensor:
    """The same, of the logits that were answered.

    Raises:
        UsageError: The batch has no labels.
    """
    if batch.targets is None:
        raise UsageError("influence: the query loss needs labels, but the batch has none; give a labelled query set.")
    return token_mean(cross_entropy(logits, batch.targets), batch.label_mask)


def margin_of(logits: Tensor, batch: Batch) -> Tensor:
    """log((1 - p) / p) with p the probability of the label, [B], in nats; the mean over counted tokens for token tasks.

    Its slope in the logits does not vanish where p is near 1, nor does it turn where a model is too sure of itself: whoever pulls
    towards the right class lowers it.

    Raises:
        UsageError: The batch has no labels.
    """
    if batch.targets is None:
        raise UsageError("influence: the margin needs labels, but the batch has none; give a labelled query set.")
    known = batch.targets.clamp(min=0)  # a token without a label is masked below
    return token_mean(others(full_precision(logits), known).logsumexp(-1) - own(full_precision(logits), known), batch.label_mask)


class Supervised:
    """Cross-entropy on both sides: a model trained on labels alone."""

    coupled = False

    def training_loss(self, student: Forward, batch: Batch) -> Tensor:
        """Cross-entropy with the labels as given, [B]."""
        return label_loss(student, batch)

    def query_loss(self, student: Forward, batch: Batch) -> Tensor:
        """Cross-entropy with the query labels, [B]."""
        return label_loss(student, batch)


@dataclass(frozen=True)
class Distillation:
    """The distillation loss on the training side.

    Args:
        objective: Terms with coefficients.
        teacher: The teacher, called with a batch; None where no term needs one.
        query: `ce` measures influence on cross-entropy of the net that is kept with (clean) query labels; `student` on the
            whole objective, as the paper writes it. The default differs from the paper on purpose: see decision 0002.
    """

    objective: Objective
    teacher: Forward | None
    query: Literal["ce", "student", "margin"] = "ce"

    @property
    def coupled(self) -> bool:
        """Whether any term couples the samples of a batch."""
        return self.objective.coupled

    def training_loss(self, student: Forward, batch: Batch) -> Tensor:
        """The objective's weighted sum of terms, [B]."""
        teacher = None if self.teacher is None else self.teacher(batch).detach()
        with statistics_untouched(self.objective):
            return self.objective.per_sample(Views(student(batch), teacher, batch))

    def query_loss(self, student: Forward, batch: Batch) -> Tensor:
        """The loss whose mean over the query set is to fall, [B]."""
        if self.query == "student":
            return self.training_loss(student, batch)
        logits = self.answer(student(batch), batch)
        return margin_of(logits, batch) if self.query == "margin" else label_loss_of(logits, batch)

    def answer(self, outputs: Outputs, batch: Batch) -> Tensor:
        """The logits of the net that is kept, which some terms add a head to."""
        with modes_restored(self.objective, training=False):
            return self.objective.answer(Views(outputs, None, batch))
