"""Puts student, teacher, objective, weights and balance together. Knows of no loop, no optimiser and no file."""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from limbeck.align.taps import Tapped
from limbeck.balancing.static import Balancer, Static
from limbeck.core.batch import Batch
from limbeck.core.errors import ShapeError, UsageError
from limbeck.core.objective import Objective, as_objective
from limbeck.core.outputs import Outputs, Views
from limbeck.core.term import Term
from limbeck.influence.gradients import modes_restored
from limbeck.influence.task import Distillation
from limbeck.teachers.teacher import Teacher
from limbeck.weighting.uniform import Uniform
from limbeck.weighting.weighting import Weighting


@dataclass(frozen=True)
class Loss:
    """A batch's loss, whole and in its parts.

    Args:
        total: The scalar to differentiate.
        values: [K, B], each term for each sample, without coefficients and weights.
        weights: [B].
    """

    total: Tensor
    values: Tensor
    weights: Tensor


@final
class Distiller(nn.Module):
    """L = mean_i w_i sum_k c_k l_k,i: who learns, from whom, on what terms, and how much each sample counts.

    Args:
        student: Any module whose forward returns logits.
        teacher: A `Teacher` such as Single(model); None where no term needs one.
        objective: A term or a sum of terms with coefficients.
        weighting: One weight per sample; all 1 where none is named.
        balancer: Factors on the coefficients; all 1 where none is named.

    Raises:
        UsageError: A term needs a teacher and there is none.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: Teacher | None,
        objective: Term | Objective,
        *,
        weighting: Weighting | None = None,
        balancer: Balancer | None = None,
    ) -> None:
        super().__init__()
        self.objective = as_objective(objective)
        needing = [type(term).__name__ for _, term in self.objective.parts if "teacher" in term.needs]
        if teacher is None and needing:
            raise UsageError(
                f"Distiller: {', '.join(needing)} compare with a teacher, but none was given; pass teacher=Single(model)."
            )
        self.student = Tapped(student, self.objective.student_taps)
        self.teacher = teacher
        if teacher is not None and self.objective.teacher_taps:
            teacher.tap(self.objective.teacher_taps)
        self.weighting = Uniform() if weighting is None else weighting
        self.balancer = Static() if balancer is None else balancer

    def teach(self, batch: Batch) -> Outputs | None:
        """What the teacher says of the batch, detached; None where no term asks."""
        if self.teacher is None or "teacher" not in self.objective.needs:
            return None
        outputs: Outputs = self.teacher(batch)
        return outputs.detach()

    def task(self) -> Distillation:
        """The losses that influence is about."""
        return Distillation(self.objective, self.teacher)

    def loss(self, views: Views, weights: Tensor) -> Loss:
        """The one place where samples, terms and coefficients are summed up.

        Args:
            views: Both sides' outputs.
            weights: [B], detached.
        """
        values = self.objective(views)
        per_term = (values * weights.to(values.dtype)).mean(1)
        factors = self.balancer(per_term.detach(), None)
        return Loss((self.objective.coefs.to(values.dtype) * factors * per_term).sum(), values, weights)

    def forward(self, batch: Batch) -> Loss:
        """The unweighted loss of a batch, for looking at; training goes through `fit`, which also asks for the weights."""
        views = Views(self.student(batch), self.teach(batch), batch)
        return self.loss(views, torch.ones(len(batch), device=views.student.logits.device))

    def check(self, batch: Batch, labels: Tensor | None = None) -> None:
        """Run one batch through both sides and all terms before any work is lost; leaves everything as it was.

        Args:
            batch: A few samples.
            labels: All labels that will be trained on; None for those of the batch.

        Raises:
            ShapeError: Student and teacher do not answer for the same classes, or labels lie outside them.
        """
        with modes_restored(self.student, training=False), torch.no_grad():
            own, teacher = self.student(batch), self.teach(batch)
        classes = own.logits.shape[-1]
        if teacher is not None and teacher.logits.shape[-1] != classes:
            raise ShapeError(
                f"Distiller: the student answers for {classes} classes and the teacher for {teacher.logits.shape[-1]}; "
                "they must be the same classes."
            )
        seen = batch.targets if labels is None else labels
        if seen is not None and seen.dim() == 1 and len(seen) and not 0 <= int(seen.min()) <= int(seen.max()) < classes:
            wrong = int(seen.min()) if int(seen.min()) < 0 else int(seen.max())
            raise ShapeError(f"Distiller: a label is {wrong}, but the student answers for the classes 0 to {classes - 1}.")
        with torch.no_grad():
            self.objective(Views(own, teacher, batch))
