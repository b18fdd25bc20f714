"""What all terms on features share: a tap on each side, and features read and checked once."""

from abc import ABC

from torch import Tensor

from limbeck.align.taps import features_of
from limbeck.core.errors import ShapeError, UsageError
from limbeck.core.outputs import Views
from limbeck.core.term import Term, teacher_of
from limbeck.functional.divergences import full_precision
from limbeck.functional.pooling import pooled


class FeatureTerm(Term, ABC):
    """A term that compares what student and teacher show at a tap each.

    Args:
        student: Name or glob of the student's modules.
        teacher: Name or glob of the teacher's modules.

    Raises:
        UsageError: A tap is no name.
    """

    needs = frozenset({"teacher", "student_features", "teacher_features"})

    def __init__(self, student: str, teacher: str) -> None:
        super().__init__()
        self.who = type(self).__name__
        for side, tap in (("student", student), ("teacher", teacher)):
            if not isinstance(tap, str) or not tap:
                raise UsageError(f"{self.who}: {side} must be the name of a module (or a glob such as 'layer?'), got {tap!r}.")
        self.student, self.teacher = student, teacher

    @property
    def student_taps(self) -> tuple[str, ...]:
        """The student's tap."""
        return (self.student,)

    @property
    def teacher_taps(self) -> tuple[str, ...]:
        """The teacher's tap."""
        return (self.teacher,)

    def stages(self, views: Views) -> list[tuple[Tensor, Tensor]]:
        """The features of both sides in at least float32, stage by stage in the order of the models.

        Raises:
            ShapeError: The taps stand for different numbers of stages.
        """
        student = features_of(views.student, self.student, self.who)
        teacher = features_of(teacher_of(views, self.who), self.teacher, self.who)
        if len(student) != len(teacher):
            raise ShapeError(
                f"{self.who}: student tap '{self.student}' gives {len(student)} features and teacher tap '{self.teacher}' "
                f"{len(teacher)}; name taps that give one of each for every stage."
            )
        return [(full_precision(own), full_precision(other)) for own, other in zip(student, teacher, strict=True)]

    def stage(self, views: Views) -> tuple[Tensor, Tensor]:
        """The one feature of each side, in at least float32.

        Raises:
            ShapeError: A tap stands for several.
        """
        found = self.stages(views)
        if len(found) != 1:
            raise ShapeError(
                f"{self.who} compares one feature of each side, but tap '{self.student}' gives {len(found)}; name one module."
            )
        return found[0]

    def vectors(self, views: Views) -> tuple[Tensor, Tensor]:
        """One vector per sample of each side: maps are averaged over places, tokens over those that count."""
        student, teacher = self.stage(views)
        return pooled(student, views.batch.mask, self.who), pooled(teacher, views.batch.mask, self.who)


def same_kind(student: Tensor, teacher: Tensor, who: str) -> None:
    """Check that both sides of a stage are vectors, maps, or as many tokens.

    Raises:
        ShapeError: They are not.
    """
    if student.dim() != teacher.dim() or (student.dim() == 3 and student.shape[1] != teacher.shape[1]):
        raise ShapeError(f"{who}: features {list(student.shape)} and {list(teacher.shape)} differ in kind; tap others.")
