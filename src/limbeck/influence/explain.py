"""What a score says in words: which queries a sample hurts and helps, and what removing the worst samples would bring.

Predictions are first-order: they hold at a minimum and for small groups. `measure_removal` holds one against real retraining, and
beside it the same for as many samples drawn at random, which says how much of the change is chance.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from limbeck.core.checks import whole
from limbeck.core.errors import UsageError
from limbeck.influence.matrix import Tile
from limbeck.influence.scores import Scores


@dataclass(frozen=True)
class Explanation:
    """Every training sample's mean score, its rank, and the queries that it moves most.

    Args:
        index: [N] int64, the training samples' identities.
        phi: [N], the mean over the queries; > 0 harmful.
        rank: [N] int64, 1 for the most harmful sample.
        hurts: [N, k] int64, identities of the queries whose loss it raises most, worst first; -1 where there are no more.
        hurts_by: [N, k], by how much (phi of the pair); 0 beside -1.
        helps: [N, k] int64, identities of the queries whose loss it lowers most; -1 where there are no more.
        helps_by: [N, k], phi of the pair, < 0; 0 beside -1.
    """

    index: Tensor
    phi: Tensor
    rank: Tensor
    hurts: Tensor
    hurts_by: Tensor
    helps: Tensor
    helps_by: Tensor


def explain(tiles: Iterable[Tile], *, k: int = 5) -> Explanation:
    """Read a matrix of scores tile by tile, and keep k queries on either side of each training sample.

    Args:
        tiles: What `score_matrix` gives.
        k: Queries to keep, >= 1.

    Raises:
        UsageError: There is no tile, or k is too small.
    """
    k = whole(k, "explain: k")
    index: Tensor | None = None
    for tile in tiles:
        if index is None:
            index, total, count = tile.index, torch.zeros_like(tile.phi[0], dtype=torch.float64), 0
            most = least = (tile.phi[:0], tile.queries[:0, None].expand(0, tile.phi.shape[1]))
        total, count = total + tile.phi.double().sum(0), count + len(tile.queries)
        most, least = _kept(most, tile, k, largest=True), _kept(least, tile, k, largest=False)
    if index is None:
        raise UsageError("explain: there is no tile; give what score_matrix gives.")
    phi = (total / count).to(most[0].dtype)
    hurts, helps = (_signed(part, above=above) for part, above in ((most, True), (least, False)))
    return Explanation(index, phi, ranks(phi), *hurts, *helps)


Kept = tuple[Tensor, Tensor]
"""Scores and query identities, [up to k, N] each, in order."""


def _kept(before: Kept, tile: Tile, k: int, *, largest: bool) -> Kept:
    """The k most extreme of those before and those of a tile; among equals the earlier query comes first."""
    phi = torch.cat([before[0], tile.phi])
    queries = torch.cat([before[1], tile.queries[:, None].expand_as(tile.phi)])
    order = phi.argsort(dim=0, descending=largest, stable=True)[:k]
    return phi.gather(0, order), queries.gather(0, order)


def _signed(kept: Kept, *, above: bool) -> Kept:
    """Identities and scores, [N, k] each, without those on the other side of 0."""
    phi, queries = (part.T for part in kept)
    there = phi > 0 if above else phi < 0
    return queries.where(there, -1), phi.where(there, 0.0)


def ranks(phi: Tensor) -> Tensor:
    """1 for the largest score, int64 [N].

    >>> ranks(torch.tensor([0.1, 3.0, -1.0]))
    tensor([2, 1, 3])
    """
    found = torch.empty(len(phi), dtype=torch.int64)
    found[phi.cpu().argsort(descending=True, stable=True)] = torch.arange(1, len(phi) + 1)
    return found


def removal_curve(phi: Tensor) -> Tensor:
    """The predicted change of the mean query loss when the worst k samples are removed, for k = 0..N: -(sum of their phi) / N.

    Shapes: [N] -> [N + 1] float64.

    >>> removal_curve(torch.tensor([2.0, -1.0]))
    tensor([ 0.0000, -1.0000, -0.5000], dtype=torch.float64)
    """
    worst = phi.double().sort(descending=True).values
    return torch.cat([worst.new_zeros(1), -worst.cumsum(0) / len(phi)]) + 0.0  # no -0.


@dataclass(frozen=True)
class Removal:
    """What removing the worst samples was predicted to bring, and what it brought.

    Args:
        count: How many were removed.
        before: The query loss of the model that was scored (nats).
        predicted: The change foretold.
        measured: The change after training without them.
        random: The change after training without as many others, drawn at random.
    """

    count: int
    before: float
    predicted: float
    measured: float
    random: float


def measure_removal(scores: Scores, count: int, query_loss_without: Callable[[Tensor], float], *, seed: int = 0) -> Removal:
    """Train twice more: without the worst samples, and without as many drawn at random.

    Args:
        scores: Of the model as it was trained on all samples.
        count: Samples to remove, from 1 to N - 1.
        query_loss_without: Trains without the samples of these identities, and gives the mean query loss.
        seed: Of the random draw.

    Raises:
        UsageError: So many samples cannot be removed.
    """
    if whole(count, "measure_removal: count") >= len(scores.phi):
        raise UsageError(f"measure_removal: count must be below the {len(scores.phi)} samples, got {count}.")
    order = scores.phi.cpu().argsort(descending=True, stable=True)
    drawn = torch.randperm(len(order), generator=torch.Generator().manual_seed(seed))
    measured, control = (query_loss_without(scores.index.cpu()[rows[:count]]) - scores.query_loss for rows in (order, drawn))
    return Removal(count, scores.query_loss, float(removal_curve(scores.phi)[count]), measured, control)
