"""KD-AIF offline: train without weights, score every sample once, train anew with fixed weights."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from typing import Any, cast, final

import torch
from torch import Tensor

from limbeck.core.batch import Batch
from limbeck.core.checks import not_negative, positive, whole
from limbeck.core.errors import UsageError
from limbeck.core.shown import shown
from limbeck.core.term import Moment
from limbeck.data.loader import Loader
from limbeck.influence.curvature.ekfac import EKFAC
from limbeck.influence.curvature.solver import Solver
from limbeck.influence.scores import score
from limbeck.training.setting import setting_of
from limbeck.training.training import Record, Training
from limbeck.training.weighted import weighted_backward
from limbeck.weighting.squash import check_normalise, mean_one, normalise, squash
from limbeck.weighting.stored import Stored


@final
class Offline:
    """Train the student once with weight 1, score all N training samples, then train it from its start with those weights.

    Costs one more training run and one scoring pass; the distiller's own weighting is not used.

    Args:
        solver: The inverse; EKFAC() where none is named.
        normalise: How scores are brought to a common scale, over all N samples.
        gain: Steepness, >= 0.
        clamp: Bound of |gain z|, > 0.
        epochs: Epochs of the first, unweighted training, >= 1; None for as many as the loop trains.

    Reference: KD-AIF's released notebooks work this way, roughly; their weight function is not used (see docs/methods/kd-aif.md).

    >>> Offline()
    Offline(EKFAC(damping=0.1), normalise='median')
    """

    trains_teacher = False
    writes = False

    def __init__(
        self,
        solver: Solver | None = None,
        normalise: str = "median",
        *,
        gain: float = 1.0,
        clamp: float = 4.0,
        epochs: int | None = None,
    ) -> None:
        self.solver = EKFAC() if solver is None else solver
        self.normalise = check_normalise(normalise, "Offline")
        self.gain = not_negative(gain, "Offline: gain")
        self.clamp = positive(clamp, "Offline: clamp")
        self.epochs = None if epochs is None else whole(epochs, "Offline: epochs")
        self.weights: Stored | None = None
        self.scores: Tensor | None = None

    def prepare(self, training: Training, loader: Loader, *, resumed: bool) -> None:
        """Train, score, and put the student and its optimiser back to their start.

        Raises:
            UsageError: There is no query set.
        """
        if training.queries is None or not len(training.queries):
            raise UsageError("Offline: scores need a query set, but the run has none; pass queries=... to fit.")
        if resumed:
            return
        student, optimizer = training.distiller.student, training.optimizer
        start, fresh = deepcopy(training.distiller.state_dict()), deepcopy(optimizer.state_dict())
        balance, factors = training.distiller.balancer.state(), training.distiller.objective.factors
        steps, training.steps = training.steps, len(loader) * self.epochs if self.epochs is not None else training.steps
        for number in range(training.steps):
            if number % len(loader) == 0:
                batches = loader.epoch(number // len(loader))
            training.distiller.objective.at(Moment(number, training.steps, number / len(loader)))
            part = training.engine.shard(next(batches))
            weighted_backward(training, part, torch.ones(len(part), device=part.index.device))
            training.apply()
            training.number += 1
        setting = setting_of(training, loader, 0, None, teacher_moves=False)
        found = score(student, setting.task, setting.everyone, [training.queries], self.solver)
        index, phi = found.index.cpu(), found.phi.cpu()
        self.weights = Stored(index, mean_one(squash(normalise(phi, self.normalise), self.gain, self.clamp)))
        self.scores = torch.zeros(int(index.max()) + 1, dtype=phi.dtype)
        self.scores[index] = phi
        training.distiller.load_state_dict(start)
        optimizer.load_state_dict(fresh)
        training.distiller.balancer.load_state(balance)
        training.distiller.objective.factors = factors
        training.number, training.steps = 0, steps

    def __call__(self, training: Training, batch: Batch) -> Record:
        """One update of the student with the stored weights."""
        assert self.weights is not None
        assert self.scores is not None
        weights = batch.looked_up(self.weights.table.to(batch.index.device))
        record, _ = weighted_backward(training, batch, weights)
        training.apply()
        return replace(record, scores=batch.looked_up(self.scores.to(batch.index.device)))

    def state(self) -> dict[str, object]:
        """The weights and scores."""
        return {"weights": None if self.weights is None else self.weights.table, "scores": self.scores}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` gave."""
        table = cast(Tensor, state["weights"])
        self.weights = Stored(torch.arange(len(table)), table)
        self.scores = state["scores"]

    def __repr__(self) -> str:
        return shown(self, "solver", "normalise")
