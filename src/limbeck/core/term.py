"""The one contract of every loss: one value per sample."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from torch import Tensor, nn

from limbeck.core.batch import Batch
from limbeck.core.errors import ShapeError, UsageError
from limbeck.core.outputs import Outputs, Views
from limbeck.core.shown import arguments

if TYPE_CHECKING:
    from limbeck.core.objective import Objective

Need = Literal[
    "teacher",
    "targets",
    "student_features",
    "teacher_features",
    "teacher_topk",
    "teacher_reference",
    "log_drawn",
    "advantage",
    "reference",
]
"""What a term may need. With `teacher_topk` the most probable classes of the teacher do for its logits; `teacher_reference` is
what it said before it was aligned.

The last three are columns of batches that a step has written (`losses/drawn.py`).
"""
COLUMNS: frozenset[Need] = frozenset({"log_drawn", "advantage", "reference"})


@dataclass(frozen=True)
class Scene:
    """What a term with parts of its own is built from, once, before the optimiser is made.

    Args:
        views: A few training samples as both sides see them in evaluation mode, for shapes.
        classes: Number of classes.
        rows: [R] int64, the identities of the training samples.
        labels: [N] int64 by identity, the labels that are trained on, -1 where a sample has none; only those at `rows` may be
            looked at.
        taught: Goes over all training samples once, untransformed: batches with the teacher's answers (and features).
        classifier: A frozen copy of the teacher's classifier, None where it has no linear one.
    """

    views: Views
    classes: int
    rows: Tensor
    labels: Tensor
    taught: Callable[[], Iterator[tuple[Batch, Outputs]]]
    classifier: nn.Linear | None = None

    def labelled(self) -> Scene:
        """The same without the training samples that have no label; of token tasks all have."""
        if self.labels.dim() != 1:
            return self

        def taught() -> Iterator[tuple[Batch, Outputs]]:
            for batch, answer in self.taught():
                kept = self.labels.to(batch.index.device)[batch.index] >= 0
                if kept.any():
                    yield batch.take(kept), answer.take(kept)

        return replace(self, rows=self.rows[self.labels[self.rows] >= 0], taught=taught)


@dataclass(frozen=True)
class Moment:
    """Where a training stands.

    Args:
        step: Optimiser steps taken.
        steps: Optimiser steps in all.
        epoch: Epochs gone by, as a fraction: 1.5 is the middle of the second.
    """

    step: int
    steps: int
    epoch: float


class Term(nn.Module, ABC):
    """A part of the loss with one value per sample, `[B]`, never a mean.

    A term that couples the samples of a batch returns each anchor's share, so that the mean is the paper's loss; a token
    term returns the masked mean over a sample's tokens. Terms know nothing of weights, of coefficients or of each other.

    Attributes are set on the class; a term that wraps others takes over theirs when it is made.

    Attributes:
        needs: What must be there: checked before training starts.
        coupled: Whether a sample's value depends on other samples of the batch (relational and contrastive terms).
        builds: Whether `build` must be called before the term can be evaluated (projectors, heads, memory banks).
        built: Whether it has been.
        remembers: Whether `remember` is to be called after every step (memory banks, running means).
        deploys: Whether `deploy` gives another net than the student itself (heads that inference needs).
        compiles: Whether `torch.compile` takes it as one graph.
        tunes: Whether `tune` chooses something of that net on validation samples.
        rests: Whether, knowing the teacher only, it is 0 and flat where the student answers as the teacher, and nowhere below 0.
        crosses: Whether student and teacher may answer for different classes (vocabularies of their own).
        lumps: Whether it compares softmax(logits / T) of both sides, T its attribute, by a sum over the classes to which classes
            of the same ratio of probabilities can be added up first (an f-divergence): such a term needs no full logits.
        drawn: The temperature at which the student itself must have drawn the tokens that stand as labels; None for any labels.
        says: The arguments that its text names in any case; of the others those that differ from their default.
    """

    needs: frozenset[Need] = frozenset()
    coupled: bool = False
    builds: bool = False
    remembers: bool = False
    deploys: bool = False
    compiles: bool = True
    tunes: bool = False
    rests: bool = True
    crosses: bool = False
    lumps: bool = False
    drawn: float | None = None
    says: tuple[str, ...] = ()
    built: bool = False

    def build(self, scene: Scene) -> None:
        """Make the parts whose shapes the nets decide. Called once; first numbers are drawn from torch's global generator."""

    def at(self, moment: Moment) -> None:
        """Told before every step where the training stands, for warm-ups and schedules; never told, all is at full strength."""

    def remember(self, views: Views) -> None:
        """Take note of a step that was made, once per step: detached views of the samples of all processes."""

    def deploy(self, student: nn.Module) -> nn.Module:
        """The net to be used after training: the student itself, or one with parts of this term folded in or added."""
        return student

    def answer(self, views: Views) -> Tensor:
        """What the net that `deploy` gives would answer, in evaluation mode: logits, differentiable in what is the student's."""
        return views.student.logits

    def tune(self, views: Views) -> None:
        """Choose what only the net in use needs, on validation samples: the student in evaluation mode, and labels."""

    @abstractmethod
    def forward(self, views: Views) -> Tensor:
        """One value per sample, [B]."""

    @property
    def student_taps(self) -> tuple[str, ...]:
        """Names (or globs) of the student's modules whose outputs this term reads."""
        return ()

    @property
    def teacher_taps(self) -> tuple[str, ...]:
        """Names (or globs) of the teacher's modules whose outputs this term reads."""
        return ()

    def trained(self) -> list[nn.Parameter]:
        """The term's own parameters that the student's optimiser updates too."""
        return [part for part in self.parameters() if part.requires_grad]

    def __mul__(self, coef: float) -> Objective:
        from limbeck.core.objective import Objective

        return Objective([(coef, self)])

    __rmul__ = __mul__

    def __add__(self, other: Term | Objective) -> Objective:
        from limbeck.core.objective import Objective

        return Objective([(1.0, self)]) + other

    def extra_repr(self) -> str:
        """The arguments, each read from the attribute of its name."""
        return arguments(self, *self.says)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.extra_repr()})"


def teacher_of(views: Views, who: str) -> Outputs:
    """The teacher's outputs.

    Raises:
        UsageError: There is no teacher.
    """
    if views.teacher is None:
        raise UsageError(f"{who} compares the student with a teacher, but none was given; pass teacher=... to the Distiller.")
    return views.teacher


def targets_of(views: Views, who: str) -> Tensor:
    """The labels, [B] or [B, L].

    Raises:
        UsageError: The batch has no labels, or two per sample.
    """
    if views.batch.mixture is not None:
        raise UsageError(
            f"{who} needs one label per sample, but these were mixed in pairs; use CE() and terms without labels beside MixUp."
        )
    if views.batch.targets is None:
        raise UsageError(f"{who} needs labels, but the batch has none; leave the term out or give labelled data.")
    return views.batch.targets


def same_classes(student: Tensor, teacher: Tensor, who: str) -> None:
    """Check that both logits speak of the same classes for the same samples.

    Raises:
        ShapeError: The shapes differ.
    """
    if student.shape != teacher.shape:
        raise ShapeError(
            f"{who}: student logits {list(student.shape)} and teacher logits {list(teacher.shape)} differ; "
            "student and teacher must answer for the same classes."
        )
