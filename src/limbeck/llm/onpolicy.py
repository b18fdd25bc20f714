"""Training on what the student (or its teacher) writes itself (GKD, 2023)."""

from dataclasses import replace
from typing import Any, final

from limbeck.core.batch import Batch
from limbeck.core.checks import fraction, one_of
from limbeck.core.errors import UsageError
from limbeck.core.written import Writes
from limbeck.data.loader import Loader
from limbeck.llm.completions import Completions, chance
from limbeck.training.training import Record, Training
from limbeck.training.weighted import weighted_backward


@final
class OnPolicy:
    """With chance `share` a step's completions are written by the student (or the teacher), else they are the data's own.

    The step itself is the plain one: any objective, any weights. No gradient goes through the drawing.

    Args:
        share: Chance of a step with written completions, in [0, 1]; 1 is purely on-policy, 0 the plain step.
        source: Who writes: `student` (GKD), or `teacher` (sequence-level distillation with fresh samples).
        end: The chance at the end of training, to which it goes in a straight line; None: it stays.
        length: Tokens of a completion at most, >= 1.
        temperature: Of the drawing, >= 0; 0 takes the most probable token.
        top_p: In (0, 1]: draw among the most probable tokens of this mass.
        context: Tokens of each row that stay as they are, at least, >= 1; for packed rows, which have no prompt.

    Raises:
        UsageError: An argument is out of its range, or the run cannot be trained on rollouts (no language, a term that needs
            labels while the student writes, a teacher that cannot answer).

    Reference: Agarwal et al., 2024, arXiv:2306.13649, algorithm 1 (lambda is `share`); Kim, Rush, 2016, arXiv:1606.07947,
    SeqKD. Differs from the papers: the temperature is of the drawing alone, the terms have their own; SeqKD takes the mode of a
    beam search, once.

    >>> OnPolicy()
    OnPolicy(share=0.5)
    >>> OnPolicy(0.2, "teacher", end=1.0)
    OnPolicy(share=0.2, source='teacher', end=1)
    """

    trains_teacher = False

    def __init__(
        self,
        share: float = 0.5,
        source: str = "student",
        *,
        end: float | None = None,
        length: int = 128,
        temperature: float = 1.0,
        top_p: float = 1.0,
        context: int = 1,
    ) -> None:
        self.share = fraction(share, "OnPolicy: share")
        self.source = one_of(source, ("student", "teacher"), "OnPolicy: source")
        self.end = None if end is None else fraction(end, "OnPolicy: end")
        self.completions = Completions("OnPolicy", length, temperature, top_p, context)
        self.loader: Loader | None = None
        self.written = 0

    def prepare(self, training: Training, loader: Loader, *, resumed: bool) -> None:
        """See that the run can be trained so.

        Raises:
            UsageError: It cannot.
        """
        always = self.share == 1 and self.end in (None, 1)
        self.completions.check(training, loader, own=self.source == "student", always=always)
        teacher = training.distiller.teacher
        if self.source == "teacher" and not isinstance(teacher, Writes) and (teacher is None or "logits" not in teacher.offers):
            raise UsageError("OnPolicy: a teacher that writes must give all logits or be served; pass teacher=Single(model).")
        self.loader, self.written = loader, 0

    def __call__(self, training: Training, batch: Batch) -> Record:
        """One update of the student."""
        assert self.loader is not None
        self.completions.check_columns(batch)
        if chance(self.loader, training.number) < self.chance_at(training.number, training.steps):
            write = self.completions.by_student if self.source == "student" else self.completions.by_teacher
            batch, self.written = write(training, batch, self.loader), self.written + 1
        record, _ = weighted_backward(training, batch)
        training.apply()
        return replace(record, figures={**record.figures, "written_steps": self.written})

    def chance_at(self, step: int, steps: int) -> float:
        """The chance of a step with written completions: `share` at the first step, `end` at the last."""
        if self.end is None:
            return self.share
        return self.share + (self.end - self.share) * step / max(steps - 1, 1)

    def state(self) -> dict[str, Any]:
        """How many steps had written completions; all draws follow from seed, step and sample."""
        return {"written": self.written}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take back what `state` gave."""
        self.written = int(state["written"])

    def __repr__(self) -> str:
        source = "" if self.source == "student" else f", source={self.source!r}"
        return f"OnPolicy(share={self.share:g}{source}{'' if self.end is None else f', end={self.end:g}'})"
