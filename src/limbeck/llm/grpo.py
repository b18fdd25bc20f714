"""Groups of completions whose rewards say which of them are good (GRPO, 2024), for reinforcement-aware distillation."""

from copy import deepcopy
from dataclasses import replace
from typing import Any, final

import torch
from torch import Tensor

from limbeck.align.taps import Tapped
from limbeck.core.batch import Batch
from limbeck.core.checks import whole
from limbeck.core.errors import RunError, UsageError
from limbeck.core.shown import shown
from limbeck.core.term import COLUMNS
from limbeck.data.loader import Loader
from limbeck.data.tokens import Tokens
from limbeck.functional.divergences import log_softmax
from limbeck.functional.policy import group_advantages
from limbeck.functional.target_split import own
from limbeck.influence.restoring import evaluating
from limbeck.llm.completions import Completions
from limbeck.llm.reused import Reused
from limbeck.llm.rewards import Reward
from limbeck.losses.drawn import ADVANTAGE, REFERENCE
from limbeck.training.training import Record, Training
from limbeck.training.weighted import weighted_backward


@final
class GRPO:
    """The student writes `group` completions of every prompt; the advantage of each is its reward beside those of its group.

    A = (R - mean) / (std + 1e-4) within the group. The completions, `group` times as many as the batch has rows, are trained on
    by the objective, at temperature 1; TRRD() reads the advantages: `TRRD(alpha=1)` is GRPO, `TRRD()` RLAD, and
    `TRRD(alpha=1) + ReverseKL() * 0.01` after KDRL. A group of equal rewards teaches nothing.

    Args:
        reward: What a completion is worth.
        group: Completions of each prompt, >= 2.
        length: Tokens of a completion at most, >= 1.
        context: Tokens of each row that stay as they are, at least, >= 1; for packed rows, which have no prompt.
        reuse: Steps that train on the same completions, >= 1; the batches in between are passed over.

    Raises:
        UsageError: An argument is out of its range, or the run cannot be trained so (no language, no tokenizer, a term that takes
            labels for the truth, a stored teacher).

    Reference: Shao et al., 2024, DeepSeekMath, arXiv:2402.03300, sec. 4.1; RLAD, 2026, arXiv:2602.22495. Differs from the
    papers: `reuse` steps on the same batch stand for inner epochs in smaller batches.

    >>> from limbeck import LastNumber
    >>> GRPO(LastNumber())
    GRPO(LastNumber(), group=8)
    """

    trains_teacher = False
    writes = True

    def __init__(self, reward: Reward, group: int = 8, *, length: int = 128, context: int = 1, reuse: int = 1) -> None:
        self.reward, self.group = reward, whole(group, "GRPO: group", least=2)
        self.completions = Completions("GRPO", length, 1.0, 1.0, context)
        self.reused = Reused(whole(reuse, "GRPO: reuse"))
        self.loader: Loader | None = None
        self.reference: Tapped | None = None
        self.figures: dict[str, float] = {}

    def prepare(self, training: Training, loader: Loader, *, resumed: bool) -> None:
        """See that the run can be trained so; keep the student as it is where a term holds on to it.

        Raises:
            UsageError: It cannot.
        """
        self.completions.check(training, loader, own=True, always=self.reused.times == 1, gives=COLUMNS)
        if loader.source.tokenizer is None:
            raise UsageError(f"GRPO: rewards are of texts, but {loader.source.name} has no tokenizer; take Text(...).")
        distiller = training.distiller
        kept = "reference" in distiller.objective.needs
        self.reference = deepcopy(distiller.student).eval().requires_grad_(False) if kept else None
        self.loader, self.figures = loader, {}
        self.reused.begin()

    def __call__(self, training: Training, batch: Batch) -> Record:
        """One update of the student."""
        self.completions.check_columns(batch)
        if self.reused.due(training.number):
            self.reused.keep(training, self._written(training, batch))
        kept = self.reused.batch(training)
        assert kept is not None
        record, _ = weighted_backward(training, kept)
        training.apply()
        return replace(record, figures={**record.figures, **self.figures})

    def _written(self, training: Training, batch: Batch) -> Batch:
        """The groups, with the columns that terms on them read."""
        assert self.loader is not None
        tokens = self.loader.source.tokenizer
        assert tokens is not None
        wrote = self.completions.by_student(training, batch, self.loader, drawn=True, group=self.group)
        rewards = self._rewards(tokens, batch, wrote).to(wrote.index.device)
        own_rewards = rewards.view(-1, self.group)
        said = torch.stack([rewards.mean(), (own_rewards != own_rewards[:, :1]).any(1).double().mean()])
        mean, mixed = training.engine.gather(said.unsqueeze(0)).mean(0).tolist()
        self.figures = {"reward": mean, "groups_apart": mixed}
        columns = {**wrote.meta, ADVANTAGE: group_advantages(rewards, self.group)}
        if self.reference is not None:
            columns[REFERENCE] = self._referred(training, wrote)
        return replace(wrote, meta=columns)

    def _rewards(self, tokens: Tokens, batch: Batch, wrote: Batch) -> Tensor:
        """The reward of every completion, float64 [B G].

        Raises:
            RunError: One is NaN or infinite.
        """
        behind = (
            torch.arange(batch.inputs.shape[1], device=batch.index.device) >= self.completions.prompts(batch).unsqueeze(1) - 1
        )
        answers = texts(tokens, _tokens(batch), behind if batch.mask is None else behind & batch.mask)
        found = []
        given, said = prompt_texts(tokens, wrote), texts(tokens, _tokens(wrote), _mask(wrote))
        for row, (prompt, text) in enumerate(zip(given, said, strict=True)):
            found.append(float(self.reward(prompt, text, answers[row // self.group])))
        rewards = torch.tensor(found, dtype=torch.float64)
        if not bool(torch.isfinite(rewards).all()):
            raise RunError(f"GRPO: {self.reward!r} gave NaN or an infinite number; a reward must be finite.")
        return rewards

    @torch.no_grad()
    def _referred(self, training: Training, wrote: Batch) -> Tensor:
        """The log-probabilities that the student gave before training, [B G, L]."""
        assert self.reference is not None
        with evaluating(self.reference), training.engine.autocast():
            return own(log_softmax(self.reference(wrote).logits), _tokens(wrote))

    def state(self) -> dict[str, Any]:
        """What is used again, the last figures, and the student before training."""
        kept = None if self.reference is None else self.reference.state_dict()
        return {"reused": self.reused.state(), "figures": dict(self.figures), "reference": kept}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take back what `state` gave."""
        self.reused.load_state(state["reused"])
        self.figures = dict(state["figures"])
        if self.reference is not None:
            self.reference.load_state_dict(state["reference"])

    def __repr__(self) -> str:
        return shown(self, "reward", "group", reuse=self.reused.times, **vars(self.completions))


def texts(tokens: Tokens, ids: Tensor, kept: Tensor) -> list[str]:
    """Of every row the tokens that are kept, as text: [B, L] and [B, L] bool."""
    return [tokens.decode(row[places].tolist()) for row, places in zip(ids, kept, strict=True)]


def prompt_texts(tokens: Tokens, wrote: Batch) -> list[str]:
    """What stands before each completion, as text; a row without one is a prompt altogether."""
    before = _mask(wrote).cumsum(1) == 0
    first = torch.ones_like(before[:, :1])
    return texts(tokens, wrote.inputs, torch.cat([first, before[:, :-1]], 1))


def _tokens(batch: Batch) -> Tensor:
    assert batch.targets is not None
    return batch.targets


def _mask(batch: Batch) -> Tensor:
    assert batch.mask is not None
    return batch.mask
