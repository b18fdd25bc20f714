"""KD-AIF's mechanism 2: the teacher's samples are weighted, the student's are not."""

from dataclasses import replace
from functools import partial
from typing import final

from limbeck.core.batch import Batch
from limbeck.core.shown import shown
from limbeck.training.steps.with_teacher import TeacherSide, ones
from limbeck.training.teacher_update import TeacherRule
from limbeck.training.training import Record, Training
from limbeck.training.weighted import peek_at, weigh, weighted_backward


@final
class TeacherOnly(TeacherSide):
    """Teacher and student move together; the teacher's samples have influence weights, the student's weight 1 (M2).

    Args:
        rate: The teacher's learning rate as a share of the student's, >= 0.
        alpha: Share of the soft part in the teacher's loss, in [0, 1].
        T: Temperature of the soft part, > 0.
        feedback: Factor of the second-order part through the student's step, >= 0.
        order: `exact` looks at the student where its step would take it; `first` re-uses what is known of the present one, which
            is cheaper and right for small steps only; how far the two agree is logged as `teacher_agreement`.

    Reference: KD-AIF, arXiv:2501.02705. Reconstructed: mechanism 2 is inferred by elimination, the sources do not state it.

    >>> TeacherOnly()
    TeacherOnly(rate=0.1)
    """

    trains_teacher = True
    writes = False

    def __init__(
        self, rate: float = 0.1, *, alpha: float = 0.4, T: float = 4.0, feedback: float = 0.0, order: str = "exact"
    ) -> None:
        super().__init__(TeacherRule(rate, alpha, T, feedback, order), "TeacherOnly")

    def __call__(self, training: Training, batch: Batch) -> Record:
        """One update of both, both gradients taken before either moves."""
        record, parts = weighted_backward(training, batch, ones(batch), self.model)
        own = weigh(training, parts, partial(peek_at, training, parts)) if self.rule.order == "first" else None
        figures = self.backward(training, parts, record.weights, own, weighted=True)
        training.apply()
        self.step(training)
        return replace(record, figures=record.figures | figures)

    def __repr__(self) -> str:
        return shown(self, "rate", **vars(self.rule))
