"""The one contract of every loss: one value per sample."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, Literal

from torch import Tensor, nn

from limbeck.core.errors import ShapeError, UsageError
from limbeck.core.outputs import Outputs, Views

if TYPE_CHECKING:
    from limbeck.core.objective import Objective

Need = Literal["teacher", "targets", "student_features", "teacher_features"]


class Term(nn.Module, ABC):
    """A part of the loss with one value per sample, `[B]`, never a mean.

    A term that couples the samples of a batch returns each anchor's share, so that the mean is the paper's loss; a token
    term returns the masked mean over a sample's tokens. Terms know nothing of weights, of coefficients or of each other.

    Attributes:
        needs: What must be there: checked before training starts.
        coupled: Whether a sample's value depends on other samples of the batch (relational and contrastive terms).
    """

    needs: ClassVar[frozenset[Need]] = frozenset()
    coupled: ClassVar[bool] = False

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

    def __mul__(self, coef: float) -> Objective:
        from limbeck.core.objective import Objective

        return Objective([(coef, self)])

    __rmul__ = __mul__

    def __add__(self, other: Term | Objective) -> Objective:
        from limbeck.core.objective import Objective

        return Objective([(1.0, self)]) + other

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
        UsageError: The batch has no labels.
    """
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
