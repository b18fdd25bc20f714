"""Training on what the student, its teacher or both together write themselves (GKD, 2023; MiniLLM, 2023)."""

from dataclasses import replace
from typing import Any, final

from limbeck.core.batch import Batch
from limbeck.core.checks import fraction, one_of, proper_fraction, whole
from limbeck.core.errors import UsageError
from limbeck.core.shown import shown
from limbeck.core.term import Need
from limbeck.core.written import Writes
from limbeck.data.loader import Loader
from limbeck.llm.completions import NOTHING, Completions, chance
from limbeck.llm.reused import Reused
from limbeck.training.training import Record, Training
from limbeck.training.weighted import weighted_backward

DRAWN_ALWAYS: frozenset[Need] = frozenset({"log_drawn"})


@final
class OnPolicy:
    """With chance `share` a step's completions are written by the student (or the teacher), else they are the data's own.

    The step itself is the plain one: any objective, any weights. No gradient goes through the drawing. With share 1 the batches
    have the column `log_drawn`, the log-probabilities at which the tokens were drawn, for terms such as MiniLLM.

    Args:
        share: Chance of a step with written completions, in [0, 1]; 1 is purely on-policy, 0 the plain step.
        source: Who writes: `student` (GKD), `teacher` (sequence-level distillation with fresh samples), or `both`: every token is
            drawn from mix p + (1 - mix) q, p the teacher and q the student (MiniLLM).
        end: The chance at the end of training, to which it goes in a straight line; None: it stays.
        length: Tokens of a completion at most, >= 1.
        temperature: Of the drawing, >= 0; 0 takes the most probable token.
        top_p: In (0, 1]: draw among the most probable tokens of this mass.
        context: Tokens of each row that stay as they are, at least, >= 1; for packed rows, which have no prompt.
        mix: The teacher's share where both write, strictly between 0 and 1.
        reuse: Steps that train on the same completions, >= 1; the batches in between are passed over.

    Raises:
        UsageError: An argument is out of its range, or the run cannot be trained on rollouts (no language, a term that needs
            labels while the student writes, a teacher that cannot answer).

    Reference: Agarwal et al., 2024, arXiv:2306.13649, algorithm 1 (lambda is `share`); Kim, Rush, 2016, arXiv:1606.07947,
    SeqKD; Gu et al., 2023, arXiv:2306.08543, sec. 2.2, the mixture. Differs from the papers: the temperature is of the drawing
    alone, the terms have their own; SeqKD takes the mode of a beam search, once; MiniLLM goes over a store of completions four
    times in other batches, here the same batch is taken `reuse` times.

    >>> OnPolicy()
    OnPolicy(share=0.5)
    >>> OnPolicy(0.2, "teacher", end=1.0)
    OnPolicy(share=0.2, source='teacher', end=1)
    """

    trains_teacher = False
    writes = True

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
        mix: float = 0.2,
        reuse: int = 1,
    ) -> None:
        self.share = fraction(share, "OnPolicy: share")
        self.source = one_of(source, ("student", "teacher", "both"), "OnPolicy: source")
        self.end = None if end is None else fraction(end, "OnPolicy: end")
        self.completions = Completions("OnPolicy", length, temperature, top_p, context)
        self.mix, self.reused = proper_fraction(mix, "OnPolicy: mix"), Reused(whole(reuse, "OnPolicy: reuse"))
        self.loader: Loader | None = None
        self.written = 0

    def prepare(self, training: Training, loader: Loader, *, resumed: bool) -> None:
        """See that the run can be trained so.

        Raises:
            UsageError: It cannot.
        """
        self._check(training, loader)
        teacher = training.distiller.teacher
        answers = teacher is not None and "logits" in teacher.offers
        if self.source == "teacher" and not answers and not isinstance(teacher, Writes):
            raise UsageError("OnPolicy: a teacher that writes must give all logits or be served; pass teacher=Single(model).")
        if self.source == "both" and not answers:
            raise UsageError("OnPolicy: a teacher that writes with the student must give all logits; pass teacher=Single(model).")
        if self.source == "both" and (self.completions.temperature != 1 or self.completions.top_p != 1):
            raise UsageError("OnPolicy: the mixture of both is drawn from as it is; take temperature=1 and top_p=1.")
        self.loader, self.written = loader, 0
        self.reused.begin()

    def _check(self, training: Training, loader: Loader) -> None:
        own, always = self.source != "teacher", self.share == 1 and self.end in (None, 1)
        fresh = always and self.source == "student" and self.reused.times == 1
        self.completions.check(training, loader, own=own, always=fresh, gives=DRAWN_ALWAYS if own and always else NOTHING)

    def __call__(self, training: Training, batch: Batch) -> Record:
        """One update of the student."""
        assert self.loader is not None
        self.completions.check_columns(batch)
        if self.reused.due(training.number):
            writes = chance(self.loader, training.number) < self.chance_at(training.number, training.steps)
            self.reused.keep(training, self._written(training, batch) if writes else None)
        kept = self.reused.batch(training)
        self.written += kept is not None
        record, _ = weighted_backward(training, batch if kept is None else kept)
        training.apply()
        return replace(record, figures={**record.figures, "written_steps": self.written})

    def _written(self, training: Training, batch: Batch) -> Batch:
        assert self.loader is not None
        if self.source == "teacher":
            return self.completions.by_teacher(training, batch, self.loader)
        if self.source == "both":
            return self.completions.by_both(training, batch, self.loader, self.mix)
        return self.completions.by_student(training, batch, self.loader, drawn=True)

    def chance_at(self, step: int, steps: int) -> float:
        """The chance of a step with written completions: `share` at the first step, `end` at the last."""
        if self.end is None:
            return self.share
        return self.share + (self.end - self.share) * step / max(steps - 1, 1)

    def state(self) -> dict[str, Any]:
        """How many steps had written completions, and those that are used again; all draws follow from seed, step and sample."""
        return {"written": self.written, "reused": self.reused.state()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take back what `state` gave."""
        self.written = int(state["written"])
        self.reused.load_state(state["reused"])

    def __repr__(self) -> str:
        return shown(self, "share", reuse=self.reused.times, **vars(self.completions))
