"""Scores of every training sample on a finished model, for the mean query loss: one pass over the data."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from limbeck.core.batch import Batch
from limbeck.core.errors import ShapeError
from limbeck.engine.engine import Engine
from limbeck.influence.curvature.solver import Solver
from limbeck.influence.prepared import Prepared, dtype_of, each_batch, prepare
from limbeck.influence.task import Task


@dataclass(frozen=True)
class Scores:
    """Influence on the mean query loss, by sample identity.

    Args:
        index: [N] int64, the samples' identities.
        phi: [N]; > 0: more weight on the sample raises the query loss (harmful); to first order at a
            minimum, with H the Hessian, -phi / N is the change on removal; with EK-FAC read the order only.
        query_loss: The mean query loss at the model scored (nats).
        solver: The inverse, as typed.
        way: How the inner products were taken: `captured`, `carried`, `separate` or `reverse` (see `ways.py`).
    """

    index: Tensor
    phi: Tensor
    query_loss: float
    solver: str
    way: str = ""


def score(
    model: nn.Module,
    task: Task,
    train: Iterable[Batch],
    queries: Iterable[Batch],
    solver: Solver | None = None,
    *,
    curvature: Iterable[Batch] | None = None,
    seed: int = 0,
    engine: Engine | None = None,
    on_batch: Callable[[int], None] | None = None,
) -> Scores:
    """phi_i = -v' (H + lambda I)^-1 g_i for every training sample, v the mean query gradient.

    The model is scored in evaluation mode on both sides (batch normalisation by its running statistics, no dropout), and
    its modes, running statistics and gradients are afterwards as they were. No per-sample gradient is formed: given the inverse,
    scoring costs about one forward and one backward pass over the data.

    Args:
        model: Called with a batch, answers with `Outputs` (see `Tapped`).
        task: The training and the query loss.
        train: Training batches. Anything that can be read again and again: a list, a `Loader`.
        queries: Query batches with trusted labels.
        solver: The inverse; EKFAC() where none is named.
        curvature: Batches that the curvature is estimated from; None takes the training batches.
        seed: Seed of the labels drawn for the Fisher matrix.
        engine: Several processes take turns at the batches, and each gets all scores; every one estimates the same curvature.
        on_batch: Called with the number of samples after each scored batch, for progress.

    Raises:
        UsageError: There is no query or no training sample.
        UnsupportedModelError: The model cannot be handled; every reason is named, before work starts.

    Reference: Koh, Liang, 2017, arXiv:1703.04730, eq. 2; KD-AIF, arXiv:2501.02705. Differs from the papers: H is the damped
    Fisher or Gauss-Newton matrix unless the solver says otherwise.
    """
    return scores_of(prepare(model, task, train, queries, solver, curvature=curvature, seed=seed), engine, on_batch)


def scores_of(ready: Prepared, engine: Engine | None = None, on_batch: Callable[[int], None] | None = None) -> Scores:
    """`score` on a model that is made ready.

    Args:
        ready: What `prepare` gave, with queries.
        engine: As in `score`.
        on_batch: As in `score`.
    """
    q, query_loss = ready.direction()
    with ready.evaluating():
        index, phi = each_batch(
            ready.train, lambda batch: -ready.products(batch, q), dtype=dtype_of(ready.model), engine=engine, on_batch=on_batch
        )
    return Scores(index, phi, query_loss, repr(ready.solver), ready.way.way)


def group_sums(phi: Tensor, groups: Tensor) -> tuple[Tensor, Tensor]:
    """Scores of whole groups: the influence of a group is the sum over its samples.

    Args:
        phi: Scores of samples; leading axes (such as the queries of a matrix) stay.
        groups: int64, a group for every sample, any numbers.

    Shapes: [..., N], [N] -> the groups that there are [G], ascending, and their scores [..., G].

    Raises:
        ShapeError: There is not one group for every sample.

    >>> group_sums(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([7, 3, 7]))
    (tensor([3, 7]), tensor([2., 5.]))
    """
    if groups.shape != phi.shape[-1:]:
        raise ShapeError(f"group_sums: groups must be [{phi.shape[-1]}], one for each sample, got {list(groups.shape)}.")
    names, place = torch.unique(groups, return_inverse=True)
    return names, phi.new_zeros(*phi.shape[:-1], len(names)).index_add(-1, place, phi)
