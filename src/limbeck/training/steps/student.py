"""The student alone is updated: plain distillation (M0) and KD-AIF's mechanism 1 (M1), by the distiller's weighting."""

from typing import final

from limbeck.core.batch import Batch
from limbeck.data.loader import Loader
from limbeck.training.training import Record, Training
from limbeck.training.weighted import weighted_backward


@final
class Student:
    """theta_S <- theta_S - eta (1/B) sum_i w_i grad L_S,i. With uniform weights this is M0, with influence weights M1.

    Reference: KD-AIF, arXiv:2501.02705, mechanism 1.

    >>> Student()
    Student()
    """

    trains_teacher = False
    writes = False

    def prepare(self, training: Training, loader: Loader, *, resumed: bool) -> None:
        """Nothing to prepare."""

    def __call__(self, training: Training, batch: Batch) -> Record:
        """One update of the student."""
        record, _ = weighted_backward(training, batch)
        training.apply()
        return record

    def state(self) -> dict[str, object]:
        """Nothing beside student and optimiser."""
        return {}

    def load_state(self, state: dict[str, object]) -> None:
        """Nothing to take back."""

    def __repr__(self) -> str:
        return "Student()"
