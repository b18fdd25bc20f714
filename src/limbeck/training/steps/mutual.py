"""Nets that learn together, each from the others (Zhang et al., 2018; BD-KD, 2022)."""

import inspect
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, cast, final

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from limbeck.core.batch import Batch
from limbeck.core.errors import UsageError
from limbeck.core.objective import Objective, as_objective
from limbeck.core.outputs import Outputs, Views
from limbeck.core.term import Term
from limbeck.data.loader import Loader
from limbeck.functional.ensembles import mean_of
from limbeck.influence.restoring import modes_restored, random_state, statistics_untouched
from limbeck.losses.labels.ce import CE
from limbeck.losses.logits.kd import KD
from limbeck.teachers.ensemble import Ensemble
from limbeck.teachers.single import Single
from limbeck.training.training import Record, Training
from limbeck.training.weighted import Part, average_gradients, parts_of, weighted_backward


@final
class Mutual:
    """The student and its teachers are peers: each takes a step against the others' present answers, all at once.

    The student minimises the distiller's objective with its weights. Each peer minimises `loss` without weights, with the mean
    of the probabilities of all others, the student included, as its teacher. At T = 1 that has the gradient of the mean of the
    divergences from each of them. A peer has an optimiser like the student's, at the same rate and with the same clipping.

    With `CE() + KD(T=1)` as the objective this is deep mutual learning, with `CE() + BDKD()` it is BD-KD.

    Args:
        loss: What a peer minimises: a term, or a sum, on logits; CE() + KD(T=1) where none is named.

    What a net tells the others is what it learns by: one pass of each, in training mode, serves both. Where the batch is cut, a
    peer is asked twice about each part, alike.

    Raises:
        UsageError: The loss reads more than logits, or a teacher is frozen or missing.

    Reference: Zhang, Xiang, Hospedales, Lu, 2018, arXiv:1706.00384; BD-KD: 2022, arXiv:2212.12965. Differs from the papers: the
    nets move together, not in turn.

    >>> Mutual()
    Mutual(CE() + KD(T=1))
    """

    trains_teacher = True
    writes = False

    def __init__(self, loss: Term | Objective | None = None) -> None:
        self.loss = as_objective(CE() + KD(T=1) if loss is None else loss)
        if self.loss.unbuilt or self.loss.student_taps or self.loss.teacher_taps or self.loss.deploys:
            raise UsageError(f"Mutual: peers learn by terms that read logits only, got {self.loss!r}; leave the others out.")
        self.peers: list[Single] = []
        self.optimizers: list[Optimizer] = []

    def prepare(self, training: Training, loader: Loader, *, resumed: bool) -> None:
        """Find the peers and make their optimisers.

        Raises:
            UsageError: One is frozen, or there is none.
        """
        teacher = training.distiller.teacher
        found = [*teacher.teachers] if isinstance(teacher, Ensemble) else [teacher]
        self.peers = [peer for peer in found if isinstance(peer, Single) and peer.trained]
        if len(self.peers) < len(found):
            raise UsageError("Mutual: all teachers learn too; pass teacher=Single(model, trained=True), or an Ensemble of such.")
        self.optimizers = [like(training.optimizer, peer.tapped) for peer in self.peers]
        self.loss.to(training.engine.device)

    def __call__(self, training: Training, batch: Batch) -> Record:
        """One update of all; all gradients are taken before any net moves."""
        whole, asked = training.accumulate == 1, list[Asked]()

        def teach(piece: Batch) -> Outputs | None:
            asked.append(Asked(torch.get_rng_state(), self._answers(piece, keep=whole)))
            return self._heard(training, asked[-1].answers)

        parts = parts_of(training, batch, teach=teach)
        record, parts = weighted_backward(training, batch, parts=parts)
        for part, known in zip(parts, asked, strict=True):
            self._backward(training, part, known, len(part.batch) / len(batch))
        training.apply()
        for peer, optimizer in zip(self.peers, self.optimizers, strict=True):
            average_gradients(training.engine, peer.tapped.parameters())
            if training.clip is not None:
                nn.utils.clip_grad_norm_(peer.tapped.parameters(), training.clip)
            for group in optimizer.param_groups:
                group["lr"] = training.learning_rate
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return record

    def _answers(self, batch: Batch, *, keep: bool) -> list[Outputs]:
        """What the peers say in training mode; without their graphs, and without a trace, where they will be asked again."""
        found = []
        for peer in self.peers:
            untouched = nullcontext() if keep else statistics_untouched(peer.tapped)
            with modes_restored(peer.tapped, training=True), untouched, torch.set_grad_enabled(keep):
                found.append(cast(Outputs, peer.tapped(batch)))
        return found

    def _heard(self, training: Training, answers: list[Outputs]) -> Outputs | None:
        """What the student hears of it; None where no term asks."""
        teacher = training.distiller.teacher
        if "teacher" not in training.distiller.objective.needs:
            return None
        if not isinstance(teacher, Ensemble):
            return answers[0].detach()
        return Outputs(teacher.mean([answer.logits.detach() for answer in answers]))

    def _backward(self, training: Training, part: Part, known: "Asked", share: float) -> None:
        """Add the peers' gradients on some samples of the batch."""
        assert part.student is not None
        said = [part.student.logits, *(answer.logits.detach() for answer in known.answers)]
        with training.engine.autocast(), random_state(known.rng):
            answers = known.answers if training.accumulate == 1 else self._answers(part.batch, keep=True)
        for number, own in enumerate(answers, 1):
            others = said[:number] + said[number + 1 :]
            with training.engine.autocast():
                losses = self.loss.per_sample(Views(own, Outputs(told(others)), part.batch))
            torch.autograd.backward(losses.mean() * share)

    def state(self) -> dict[str, Any]:
        """The peers' optimisers; the peers themselves the checkpoint has."""
        return {"peers": [optimizer.state_dict() for optimizer in self.optimizers]}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take back what `state` gave."""
        for optimizer, own in zip(self.optimizers, state["peers"], strict=True):
            optimizer.load_state_dict(own)

    def __repr__(self) -> str:
        return f"Mutual({self.loss!r})"


@dataclass(frozen=True)
class Asked:
    """The peers' answers to some samples.

    Args:
        rng: The state of the random numbers before.
        answers: One of each peer, with its graph where it will learn by it.
    """

    rng: Tensor
    answers: list[Outputs]


def told(others: list[Tensor]) -> Tensor:
    """What a net hears of several others: the mean of their probabilities, as logits; one alone is heard as it is."""
    return others[0] if len(others) == 1 else mean_of(others, [1 / len(others)] * len(others), "probability")


def like(optimizer: Optimizer, model: nn.Module) -> Optimizer:
    """An optimiser of the same kind and settings for another model."""
    names = inspect.signature(type(optimizer)).parameters
    settings = {name: value for name, value in optimizer.defaults.items() if name in names}
    made: Optimizer = type(optimizer)(model.parameters(), **settings)
    return made
