"""Plain text beside another step: what keeps a language model's language while it learns by reward or from its own words."""

from dataclasses import replace
from pathlib import Path
from typing import Any, final

import torch

from limbeck.core.batch import Batch
from limbeck.core.errors import UsageError
from limbeck.core.objective import Objective, as_objective
from limbeck.core.outputs import Views
from limbeck.core.term import Term
from limbeck.data.loader import Loader, whole
from limbeck.data.seeding import generator_for
from limbeck.data.source import Source
from limbeck.data.text import Text
from limbeck.llm.completions import STREAM
from limbeck.losses.labels.ce import CE
from limbeck.training.training import Record, Training, Update


@final
class WithText:
    """Another step, whose gradient gets that of a loss on plain text added: by default the language-model loss.

    The text counts as it is, all weights 1. A step that makes one update of the student will do.

    Args:
        step: The other step, such as OnPolicy(1.0, "both").
        text: A text file, read as the data is; None for the data's own rows, as they come.
        objective: What is minimised on the text, terms on logits with coefficients; CE() where none is named.

    Raises:
        UsageError: The objective has parts of its own or reads what only written batches have, the data is no language, or a
            teacher is missing.

    Reference: Gu et al., 2023, MiniLLM, arXiv:2306.08543, sec. 2.2 (L_PT), after Ouyang et al., 2022, arXiv:2203.02155, sec. 3.5
    (PPO-ptx). Differs from the papers: no. MiniLLM's released code has half of it from the teacher: `CE() * 0.5 + KD(T=1) * 0.5`.

    >>> from limbeck import OnPolicy
    >>> WithText(OnPolicy(1.0, "both", reuse=4))
    WithText(OnPolicy(share=1, source='both', reuse=4), CE())
    """

    def __init__(self, step: Update, text: Path | None = None, objective: Term | Objective | None = None) -> None:
        self.step, self.text = step, text
        self.objective = as_objective(CE() if objective is None else objective)
        own = self.objective
        drawn = any(term.drawn is not None for _, term in own.parts)
        if own.unbuilt or own.remembers or own.deploys or own.student_taps or own.teacher_taps or drawn:
            raise UsageError(f"WithText: a text is learnt by terms that read logits and labels only, got {own!r}.")
        self.trains_teacher, self.writes = step.trains_teacher, step.writes
        self.source: Source | None = None
        self.seed = 0

    def prepare(self, training: Training, loader: Loader, *, resumed: bool) -> None:
        """Read the text, and have the other step get ready.

        Raises:
            UsageError: The data is no language, or a teacher is missing.
            DataError: The file cannot be read.
        """
        data, self.seed = loader.source, loader.seed
        if data.kind != "language":
            raise UsageError(f"WithText: text is learnt by language models, but {data.name} is no language; use the step alone.")
        if "teacher" in self.objective.needs and training.distiller.teacher is None:
            raise UsageError(f"WithText: {self.objective!r} compares with a teacher, but there is none; use CE().")
        if self.text is not None:
            if data.tokenizer is None:
                raise UsageError(f"WithText: {data.name} has no tokenizer to read {self.text} with; take Text(...) as data.")
            self.source = Text(str(self.text), tokenizer=data.tokenizer, length=data.input_shape[0])
        self.objective.to(training.engine.device)
        self.step.prepare(training, loader, resumed=resumed)

    def __call__(self, training: Training, batch: Batch) -> Record:
        """The text's gradient, then the other step, which applies both."""
        rows, total = batch if self.source is None else self._rows(training, self.source, len(batch)), 0.0
        parts = rows.split(training.accumulate)
        for part in parts:
            with training.engine.autocast():
                teacher = training.distiller.teacher if "teacher" in self.objective.needs else None
                views = Views(training.student(part), None if teacher is None else teacher(part).detach(), part)
                loss = self.objective.per_sample(views).mean() * (len(part) / len(rows))
            training.engine.backward(loss)
            total += float(loss.detach())
        record = self.step(training, batch)
        return replace(record, figures={**record.figures, "text_loss": total})

    def _rows(self, training: Training, source: Source, count: int) -> Batch:
        """`count` rows of the text for each process, drawn by (seed, step)."""
        engine = training.engine
        generator = generator_for(self.seed, STREAM, training.number, 0, 2)
        drawn = torch.randint(len(source), (engine.processes, count), generator=generator)[engine.rank]
        return whole(source, drawn, source.labels).to(engine.device)

    def state(self) -> dict[str, Any]:
        """What the other step keeps."""
        return dict(self.step.state())

    def load_state(self, state: dict[str, Any]) -> None:
        """Take back what `state` gave."""
        self.step.load_state(state)

    def __repr__(self) -> str:
        text = "" if self.text is None else f"text={str(self.text)!r}, "
        return f"WithText({self.step!r}, {text}{self.objective!r})"
