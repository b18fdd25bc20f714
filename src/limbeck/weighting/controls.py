"""Controls: weights that use other knowledge than influence, or none. A verdict is worth what its controls are worth."""

from collections.abc import Mapping
from typing import final

import torch
from torch import Tensor

from limbeck.core.errors import UsageError
from limbeck.influence.vectors import Vector
from limbeck.weighting.squash import mean_one, normalise, squash
from limbeck.weighting.weighting import Setting, Step, Weighting


def _generator(seed: int, number: int) -> torch.Generator:
    """The random numbers of one step: they depend on seed and step alone, so that a resumed run draws the same."""
    return torch.Generator().manual_seed((seed * 1_000_003 + number) % 2**63)


@final
class Random(Weighting):
    """Weights of standard normal scores at gain 1: about the spread of the default influence weights, without their information.

    >>> Random()
    Random()
    """

    def __call__(self, step: Step) -> Tensor:
        """2 / (1 + exp(z)) with z standard normal, scaled to mean 1, [B]."""
        index = step.batch.index
        count = len(self.setting.gather(index))
        z = torch.randn(count, generator=_generator(self.setting.seed, step.number)).to(index.device)
        return self.setting.own(mean_one(squash(z)), len(index))

    def __repr__(self) -> str:
        return "Random()"


@final
class Shuffled(Weighting):
    """Another weighting's weights, dealt anew within the batch: shows whether a gain is information or regularisation.

    Args:
        inner: The weighting whose weights are shuffled.
    """

    def __init__(self, inner: Weighting) -> None:
        self.inner = inner
        self.needs_queries, self.way = inner.needs_queries, inner.way

    def bind(self, setting: Setting) -> None:
        """Take note of the run, and tell the inner weighting."""
        super().bind(setting)
        self.inner.bind(setting)

    def __call__(self, step: Step) -> Tensor:
        """The inner weights in random order, [B]."""
        weights = self.setting.gather(self.inner(step))
        order = torch.randperm(len(weights), generator=_generator(self.setting.seed, step.number))
        return self.setting.own(weights[order.to(weights.device)], len(step.batch))

    def direction(self, number: int) -> Vector | None:
        """The inner weighting's."""
        return self.inner.direction(number)

    def schedule(self, epochs: float, *, written: bool = False) -> str:
        """The inner weighting's."""
        return self.inner.schedule(epochs, written=written)

    def extra(self, epochs: float, *, written: bool = False) -> float:
        """The inner weighting's."""
        return self.inner.extra(epochs, written=written)

    def figures(self) -> dict[str, float]:
        """The inner weighting's."""
        return self.inner.figures()

    def events(self) -> list[str]:
        """The inner weighting's."""
        return self.inner.events()

    def state(self) -> dict[str, Tensor]:
        """The inner weighting's."""
        return self.inner.state()

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Give the inner weighting its state."""
        self.inner.load_state(state)

    def __repr__(self) -> str:
        return f"Shuffled({self.inner!r})"


@final
class OwnLoss(Weighting):
    """Weights of the sample's own loss in place of its influence: what influence must beat to be worth its cost.

    >>> OwnLoss()
    OwnLoss()
    """

    def __call__(self, step: Step) -> Tensor:
        """2 / (1 + exp(z)) with z the loss z-scored over the batch, scaled to mean 1, [B]."""
        losses = self.setting.gather(step.losses)
        return self.setting.own(mean_one(squash(normalise(losses, "zscore"))), len(step.losses))

    def __repr__(self) -> str:
        return "OwnLoss()"


@final
class Oracle(Weighting):
    """Weight 0 for samples whose given label is wrong, 1 for the others: the upper anchor, where the truth is known.

    >>> Oracle()
    Oracle()
    """

    def __call__(self, step: Step) -> Tensor:
        """0 for wrong labels, one equal weight for the others, scaled towards mean 1 as influence weights are, [B].

        Raises:
            UsageError: Nobody knows the true labels.
        """
        if self.setting.clean is None:
            raise UsageError("Oracle: needs the true labels, but the data has none; leave 'oracle' out of compare.")
        index = step.batch.index
        kept = self.setting.gather(step.batch.looked_up(self.setting.clean.to(index.device).float()))
        return self.setting.own(mean_one(kept) if bool(kept.any()) else kept, len(index))

    def __repr__(self) -> str:
        return "Oracle()"
