"""The project's candidate for KD-AIF's fourth mechanism: first the teacher, then the student against the new teacher."""

from dataclasses import replace
from typing import final

import torch

from limbeck.core.batch import Batch
from limbeck.core.shown import shown
from limbeck.influence.restoring import random_state, statistics_untouched
from limbeck.training.steps.with_teacher import TeacherSide
from limbeck.training.teacher_update import TeacherRule
from limbeck.training.training import Record, Training
from limbeck.training.weighted import weighted_backward


@final
class Sequential(TeacherSide):
    """The teacher moves first; then scores, weights and the student's step are made against the new teacher (M4).

    Args:
        rate: The teacher's learning rate as a share of the student's, >= 0.
        alpha: Share of the soft part in the teacher's loss, in [0, 1].
        T: Temperature of the soft part, > 0.
        feedback: Factor of the second-order part through the student's step, >= 0.
        order: `exact` looks at the student where its step would take it; `first` re-uses what is known of the present one, which
            is cheaper and right for small steps only; how far the two agree is logged as `teacher_agreement`.

    Reference: KD-AIF, arXiv:2501.02705. Reconstructed: the sources leave the fourth mechanism open; this is the project's choice.

    >>> Sequential()
    Sequential(rate=0.1)
    """

    trains_teacher = True
    writes = False

    def __init__(
        self, rate: float = 0.1, *, alpha: float = 0.4, T: float = 4.0, feedback: float = 0.0, order: str = "exact"
    ) -> None:
        super().__init__(TeacherRule(rate, alpha, T, feedback, order), "Sequential")

    def __call__(self, training: Training, batch: Batch) -> Record:
        """One update of the teacher, then one of the student."""
        distiller = training.distiller
        with statistics_untouched(distiller), random_state(torch.get_rng_state()), distiller.unbalanced():
            first, parts = weighted_backward(training, batch, moved=self.model)
            figures = self.backward(training, parts, first.weights, first.weights, weighted=True)
        training.optimizer.zero_grad(set_to_none=True)
        self.step(training)
        record, _ = weighted_backward(training, batch)
        training.apply()
        return replace(record, figures=record.figures | figures)

    def __repr__(self) -> str:
        return shown(self, "rate", **vars(self.rule))
