"""A run in miniature, for weightings: a setting and steps without loop, loader or engine."""

from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from limbeck.align.taps import Tapped
from limbeck.core.batch import Batch
from limbeck.influence.gradients import inner_products
from limbeck.influence.task import Supervised
from limbeck.influence.vectors import Vector
from limbeck.weighting.weighting import Setting, Step, Weighting
from support.makers import labels, normal

TASK = Supervised()
W = TypeVar("W", bound=Weighting)


class StubRun:
    """A small net, 64 training samples of which the first 20 are flipped, and queries.

    Args:
        dropout: Of the net.
        seed: Of the run.
        asked: Query samples.
    """

    def __init__(self, dropout: float = 0.0, seed: int = 0, asked: int = 30) -> None:
        self.seed, self.asked = seed, asked
        torch.manual_seed(seed)
        self.model = Tapped(nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 3))).double()

    @cached_property
    def train(self) -> Batch:
        inputs = normal(64, 5)
        truth = inputs[:, :3].argmax(1)
        return Batch(inputs, torch.where(torch.arange(64) < 20, (truth + 1) % 3, truth), torch.arange(64))

    @cached_property
    def queries(self) -> Batch:
        inputs = normal(self.asked, 5, seed=1)
        return Batch(inputs, inputs[:, :3].argmax(1), torch.arange(100, 100 + self.asked))

    def draw(self, count: int, generator: torch.Generator) -> Batch:
        return self.train.take(torch.randperm(64, generator=generator)[:count])

    def bind(self, weighting: W, **changes: Any) -> W:
        """Tell a weighting of the run, with changes to the setting."""
        clean = torch.arange(64) >= 20
        setting = Setting(self.model, TASK, self.queries, self.draw, seed=self.seed, classes=3, clean=clean)
        weighting.bind(replace(setting, **changes))
        return weighting

    def step(self, number: int = 0, rows: Tensor | slice = slice(0, 32), at: Vector | None = None) -> Step:
        batch = self.train.take(rows)
        rng = torch.get_rng_state()

        def dot(q: Vector) -> Tensor:
            return inner_products(self.model, TASK.training_loss, batch, q, parameters=at, rng=rng)

        with torch.no_grad():
            losses = TASK.training_loss(self.model, batch)
        torch.set_rng_state(rng)
        return Step(number, batch, lambda: losses, dot, at)

    def move(self, size: float = 0.05, seed: int = 0) -> None:
        """Change the parameters, as an optimiser would."""
        with torch.no_grad():
            for number, part in enumerate(self.model.parameters()):
                part.add_(size * normal(*part.shape, seed=seed + number))

    def weights(self, weighting: Weighting, numbers: range) -> Iterator[Tensor]:
        """The weights of consecutive steps; the model moves in between, in a way that depends on the step alone."""
        for number in numbers:
            yield weighting(self.step(number, labels(16, classes=64, seed=number)))
            self.move(seed=1000 * number)
