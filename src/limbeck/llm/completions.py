"""A batch of language whose completions a model wrote itself, and what a run needs for training on such."""

from dataclasses import dataclass
from typing import cast, final

import torch
from torch import Tensor, nn
from torch.nn.functional import pad as padded

from limbeck.core.batch import Batch
from limbeck.core.cached import Cached
from limbeck.core.checks import whole
from limbeck.core.errors import UsageError
from limbeck.core.objective import Objective
from limbeck.core.term import COLUMNS, Need, Term
from limbeck.core.written import Writes
from limbeck.data.loader import Loader
from limbeck.data.seeding import generator_for
from limbeck.influence.restoring import evaluating
from limbeck.llm.mixture import Mixture
from limbeck.llm.rollouts import Model, check_drawing, generate
from limbeck.losses.drawn import DRAWN
from limbeck.teachers.single import Single
from limbeck.teachers.stored import Stored
from limbeck.training.training import Training

STREAM = 0x0110
"""Keeps the numbers drawn here apart from those of the loader, which has the same seed."""
NOTHING: frozenset[Need] = frozenset()


@final
@dataclass(frozen=True)
class Completions:
    """How completions are written in the place of a batch's own.

    A row's prompt are its tokens up to the first label that counts, at least `context` of them. The completion ends with the
    tokenizer's end, after `length` tokens, or where the row ends; its tokens, and they alone, count.

    Args:
        who: The step that asks, for messages.
        length: Tokens at most, >= 1.
        temperature: Of the drawing, >= 0; 0 takes the most probable token.
        top_p: In (0, 1]: draw among the most probable tokens of this mass.
        context: Tokens of each row that stay as they are, at least, >= 1; for packed rows, which have no prompt. What fills up a
            row never does: the last token that counts is written anew.

    Raises:
        UsageError: A value is out of its range.
    """

    who: str
    length: int
    temperature: float
    top_p: float
    context: int

    def __post_init__(self) -> None:
        whole(self.length, f"{self.who}: length")
        whole(self.context, f"{self.who}: context")
        check_drawing(self.temperature, self.top_p, self.who)

    def check(
        self, training: Training, loader: Loader, *, own: bool, always: bool = False, gives: frozenset[Need] = NOTHING
    ) -> None:
        """See that a run can be trained on rollouts.

        Args:
            training: The run.
            loader: Its batches.
            own: Whether the student writes.
            always: Whether what is trained on was written by the student alone in the same step, in every one.
            gives: The columns that every batch has.

        Raises:
            UsageError: It cannot.
        """
        source, teacher = loader.source, training.distiller.teacher
        if source.kind != "language":
            raise UsageError(
                f"{self.who}: completions are written for language, but {source.name} has none; use step: Student()."
            )
        width = source.read(loader.rows[:1])[0].shape[1]
        if self.context > width:
            raise UsageError(f"{self.who}: context={self.context} leaves no room in rows of {width} tokens; take a smaller one.")
        self._check_labels(training.distiller.objective, own=own, always=always, gives=gives)
        if teacher is not None and any(isinstance(part, Stored) for part in teacher.modules()):
            raise UsageError(f"{self.who}: a stored teacher knows no new texts; take a live one such as Single(model).")

    def _check_labels(self, objective: Objective, *, own: bool, always: bool, gives: frozenset[Need]) -> None:
        """See that terms that read labels find there what they want.

        Raises:
            UsageError: They would take the student's tokens for the truth, or the data's for the student's.
        """
        named = zip(objective.names, objective.parts, strict=True)
        reading = {name: term for name, (_, term) in named if "targets" in term.needs}
        labelled = [name for name, term in reading.items() if term.drawn is None]
        if own and labelled:
            raise UsageError(
                f"{self.who}: {', '.join(labelled)} would take what the student wrote for the truth; use terms "
                "without labels, such as JSD() or ReverseKL()."
            )
        for name, term in reading.items():
            if term.drawn is not None:  # else the teacher writes: its tokens are labels like others
                self._check_drawn(name, term, term.drawn, fresh=own and always, gives=gives)

    def _check_drawn(self, name: str, term: Term, temperature: float, *, fresh: bool, gives: frozenset[Need]) -> None:
        """See that a term on drawn tokens gets them, either fresh ones or with the probabilities at which they were drawn.

        Raises:
            UsageError: It does not.
        """
        missing = (term.needs & COLUMNS) - gives
        if missing - {"log_drawn"}:
            raise UsageError(f"{self.who}: {name} needs rewards, which this step does not ask for; take step: GRPO(...).")
        if missing or not (fresh or "log_drawn" in term.needs):
            raise UsageError(f"{self.who}: {name} needs tokens that the student draws in every step; take OnPolicy(1.0).")
        if temperature != self.temperature or self.top_p != 1:
            raise UsageError(
                f"{self.who}: {name} needs tokens drawn of all at temperature {temperature:g}, but {self.who} draws at "
                f"temperature {self.temperature:g} with top_p={self.top_p:g}; make them the same, with top_p=1."
            )

    def check_columns(self, batch: Batch) -> None:
        """See that nothing of a batch would be left behind when its tokens change.

        Raises:
            UsageError: It has columns beside tokens, labels and mask.
        """
        if batch.meta:
            raise UsageError(
                f"{self.who}: {', '.join(batch.meta)} belong to the tokens of the data and say nothing of new ones; leave "
                "out what adds them."
            )

    def write(
        self, model: Model | Writes, batch: Batch, loader: Loader, step: int, *, drawn: bool = False, group: int = 1
    ) -> Batch:
        """The batch with completions of the model; drawn by (seed of the loader, step, identity of the sample).

        Args:
            model: Who writes.
            batch: The prompts.
            loader: Whose source and seed count.
            step: The step's number.
            drawn: Add the column of the log-probabilities at which the tokens were drawn.
            group: Completions of each prompt, one after the other.
        """
        copies = [[copy] if copy else [] for copy in range(group)] * len(batch)
        batch = batch if group == 1 else batch.take(torch.arange(len(batch)).repeat_interleave(group))
        width, mask, tokens, known = batch.inputs.shape[1], batch.mask, loader.source.tokenizer, self.prompts(batch)
        pad = 0 if tokens is None else tokens.pad
        found = generate(
            model,
            batch.inputs,
            known,
            length=(width + 1 - known).clamp(max=self.length),
            generators=[
                generator_for(loader.seed, STREAM, step, 1 + row, *copy)
                for row, copy in zip(batch.index.tolist(), copies, strict=True)
            ],
            temperature=self.temperature,
            top_p=self.top_p,
            eos=None if tokens is None else tokens.eos,
            pad=pad,
            vocabulary=loader.source.outputs,  # models may have rows for tokens that the tokenizer does not know
        )
        room = (0, width + 1 - found.ids.shape[1])
        ids, wrote = padded(found.ids, room, value=pad), padded(found.mask, room, value=False)
        counted = wrote[:, 1:] if mask is None else wrote[:, 1:] & mask.any(1, keepdim=True)
        columns = {DRAWN: padded(found.log_probs, room)[:, 1:]} if drawn else {}
        return Batch(ids[:, :-1], ids[:, 1:], batch.index, counted, columns)

    def prompts(self, batch: Batch) -> Tensor:
        """How many tokens of each row are its prompt, [B]: at least one, never the last that counts or what fills up the row."""
        if batch.mask is None:
            return torch.full_like(batch.index, self.context)
        places = torch.arange(1, batch.mask.shape[1] + 1, device=batch.mask.device)
        last = (batch.mask * places).amax(1).clamp(min=1)
        return (batch.mask.int().argmax(1) + 1).clamp(min=self.context).minimum(last)

    def by_student(self, training: Training, batch: Batch, loader: Loader, *, drawn: bool = False, group: int = 1) -> Batch:
        """The batch with the student's completions, as it stands, in evaluation mode."""
        student = training.distiller.student.model
        with evaluating(student), training.engine.autocast():
            model = asked(training.distiller.student, student)
            return self.write(model, batch, loader, training.number, drawn=drawn, group=group)

    def by_teacher(self, training: Training, batch: Batch, loader: Loader) -> Batch:
        """The batch with the teacher's completions."""
        with training.engine.autocast():
            return self.write(_teacher_asked(training), batch, loader, training.number)

    def by_both(self, training: Training, batch: Batch, loader: Loader, share: float) -> Batch:
        """The batch with completions whose every token is drawn from share p + (1 - share) q, p the teacher and q the student."""
        student = training.distiller.student
        with evaluating(student.model), training.engine.autocast():
            teacher, own = (cast("Model", who) for who in (_teacher_asked(training), asked(student, student.model)))
            both = Mixture(teacher, own, share, loader.source.outputs)
            return self.write(both, batch, loader, training.number, drawn=True)


def _teacher_asked(training: Training) -> Model | Writes:
    teacher = training.distiller.teacher
    assert teacher is not None
    return asked(teacher, teacher.tapped.model if isinstance(teacher, Single) else None)


def asked(net: nn.Module, inner: object) -> Model | Writes:
    """Who writes: the net, where it writes whole completions; the model inside, where it has a cache; else the net, by logits."""
    if isinstance(net, Writes):
        return net
    if isinstance(inner, Cached):
        return cast("Model", inner)

    def answer(ids: Tensor) -> Tensor:
        logits: Tensor = net(Batch(ids, None, torch.arange(len(ids), device=ids.device))).logits
        return logits

    return answer


def chance(loader: Loader, step: int) -> float:
    """The number in [0, 1) that decides a step's source, the same in all processes and whenever the step is taken."""
    return float(torch.rand((), generator=generator_for(loader.seed, STREAM, step, 0), dtype=torch.float64))
