"""Samples mixed in pairs, with their labels: whole (Zhang et al., 2018), in part (Choi et al., 2023), or as patches."""

from dataclasses import dataclass, replace
from typing import final

import numpy as np
import torch
from torch import Tensor

from limbeck.core.batch import MIXTURE, PARTNER, Batch
from limbeck.core.checks import fraction, positive
from limbeck.core.errors import ShapeError


def mixup(inputs: Tensor, partners: Tensor, share: Tensor) -> Tensor:
    """The mixture share x + (1 - share) x[partners], sample by sample.

    Shapes: [B, ...] floats; int64 [B]; [B] in [0, 1] -> [B, ...].
    """
    share = share.to(inputs.dtype).view(-1, *[1] * (inputs.dim() - 1))
    return share * inputs + (1 - share) * inputs[partners]


def labelled(batch: Batch, inputs: Tensor, partners: Tensor, share: Tensor) -> Batch:
    """The batch with mixed inputs and, in the place of its labels, both labels of each sample and the share of the first.

    A sample keeps the identity of the first of its pair: weights and scores of a step are those of the mixture under that name,
    and stored ones those of both by their shares.
    """
    columns = {MIXTURE[2]: share, PARTNER: batch.index[partners]}
    if batch.targets is not None:
        columns |= dict(zip(MIXTURE[:2], (batch.targets, batch.targets[partners]), strict=True))
    return replace(batch, inputs=inputs, targets=None, meta={**batch.meta, **columns})


def draw_pairs(count: int, alpha: float, mixed: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Partners, a permutation, and shares from Beta(alpha, alpha), one per sample; 1 for all but round(mixed count) of them."""
    partners, rows = (torch.randperm(count, generator=generator) for _ in range(2))
    seed = int(torch.randint(2**62, (), generator=generator))  # torch draws from no beta distribution with a given generator
    share = torch.ones(count)
    chosen = rows[: round(mixed * count)]
    share[chosen] = torch.from_numpy(np.random.default_rng(seed).beta(alpha, alpha, len(chosen))).float()
    return partners, share


@final
@dataclass(frozen=True)
class MixUp:
    """x = lambda x_i + (1 - lambda) x_j with labels y_i and y_j in the same shares; lambda from Beta(alpha, alpha), per sample.

    Args:
        alpha: Of the beta distribution, > 0. 1 is uniform, 0.2 mixes little.
        mixed: Share of the batch that is mixed, exactly, in [0, 1]; the others stay as they are. 0.1 is MIX-KD's partial mixup.

    Raises:
        UsageError: An argument is out of its range.

    Reference: Zhang et al., 2018, arXiv:1710.09412; in part: Choi et al., 2023, arXiv:2211.03946. Differs: the first of a pair
    is the sample itself and not a permuted one, which only reorders the batch; the share is exact, where MIX-KD's code draws
    with replacement and mixes four times as many.

    >>> MixUp(mixed=0.1)
    MixUp(alpha=1.0, mixed=0.1)
    """

    alpha: float = 1.0
    mixed: float = 1.0

    def __post_init__(self) -> None:
        positive(self.alpha, "MixUp: alpha")
        fraction(self.mixed, "MixUp: mixed")

    def __call__(self, batch: Batch, generator: torch.Generator) -> Batch:
        """The batch with mixed samples.

        Raises:
            ShapeError: The inputs are no numbers that could be mixed, such as token ids.
        """
        if not batch.inputs.is_floating_point():
            raise ShapeError(f"MixUp: inputs must be floats, got {batch.inputs.dtype}; token ids cannot be mixed.")
        partners, share = draw_pairs(len(batch), self.alpha, self.mixed, generator)
        partners, share = partners.to(batch.index.device), share.to(batch.index.device)
        return labelled(batch, mixup(batch.inputs, partners, share), partners, share)
