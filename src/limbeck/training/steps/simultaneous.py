"""KD-AIF's mechanism 3: teacher and student move together, both weighted; and its unweighted control."""

from dataclasses import replace
from typing import final

from limbeck.core.batch import Batch
from limbeck.core.shown import shown
from limbeck.training.steps.with_teacher import TeacherSide, ones
from limbeck.training.teacher_update import TeacherRule
from limbeck.training.training import Record, Training
from limbeck.training.weighted import weighted_backward


@final
class Simultaneous(TeacherSide):
    """Teacher and student move together, each with its own influence weights (M3); unweighted it is the control M3u.

    Args:
        rate: The teacher's learning rate as a share of the student's, >= 0.
        alpha: Share of the soft part in the teacher's loss, in [0, 1].
        T: Temperature of the soft part, > 0.
        feedback: Factor of the second-order part through the student's step, >= 0.
        order: `exact` looks at the student where its step would take it; `first` re-uses what is known of the present one, which
            is cheaper and right for small steps only; how far the two agree is logged as `teacher_agreement`.
        weighted: False gives every sample weight 1 on both sides: joint training without weights.

    Reference: KD-AIF, arXiv:2501.02705, mechanism 3. Differs from the paper: the teacher's loss, which the sources do not give.

    >>> Simultaneous()
    Simultaneous(rate=0.1)
    """

    trains_teacher = True
    writes = False

    def __init__(
        self,
        rate: float = 0.1,
        *,
        alpha: float = 0.4,
        T: float = 4.0,
        feedback: float = 0.0,
        order: str = "exact",
        weighted: bool = True,
    ) -> None:
        super().__init__(TeacherRule(rate, alpha, T, feedback, order), "Simultaneous")
        self.weighted = weighted

    def __call__(self, training: Training, batch: Batch) -> Record:
        """One update of both, both gradients taken before either moves: the order of the two optimisers makes no difference."""
        record, parts = weighted_backward(training, batch, None if self.weighted else ones(batch), self.model)
        figures = self.backward(training, parts, record.weights, record.weights, weighted=self.weighted)
        training.apply()
        self.step(training)
        return replace(record, figures=record.figures | figures)

    def __repr__(self) -> str:
        return shown(self, "rate", **vars(self.rule))
