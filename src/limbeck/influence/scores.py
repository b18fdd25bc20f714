"""Scores of every training sample on a finished model, for the mean query loss: one pass over the data."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from limbeck.core.batch import Batch
from limbeck.core.errors import UsageError
from limbeck.influence.curvature.ekfac import EKFAC
from limbeck.influence.curvature.solver import Problem, Solver
from limbeck.influence.gradients import inner_products, mean_gradient
from limbeck.influence.restoring import modes_restored
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
    """

    index: Tensor
    phi: Tensor
    query_loss: float
    solver: str


def score(
    model: nn.Module,
    task: Task,
    train: Sequence[Batch],
    queries: Sequence[Batch],
    solver: Solver | None = None,
    *,
    curvature: Sequence[Batch] | None = None,
    seed: int = 0,
    on_batch: Callable[[int], None] | None = None,
) -> Scores:
    """phi_i = -v' (H + lambda I)^-1 g_i for every training sample, v the mean query gradient.

    The model is scored in evaluation mode on both sides (batch normalisation by its running statistics, no dropout), and
    its modes, running statistics and gradients are afterwards as they were.

    Args:
        model: Called with a batch, answers with `Outputs` (see `Tapped`).
        task: The training and the query loss.
        train: Training batches.
        queries: Query batches with trusted labels.
        solver: The inverse; EKFAC() where none is named.
        curvature: Batches that the curvature is estimated from; None takes the training batches.
        seed: Seed of the labels drawn for the Fisher matrix.
        on_batch: Called with the number of samples after each scored batch, for progress.

    Raises:
        UsageError: There is no query or no training sample.

    Reference: Koh, Liang, 2017, arXiv:1703.04730, eq. 2; KD-AIF, arXiv:2501.02705. Differs from the papers: H is the damped
    Fisher or Gauss-Newton matrix unless the solver says otherwise.
    """
    if not sum(len(batch) for batch in queries) or not sum(len(batch) for batch in train):
        raise UsageError("score: needs at least one training and one query sample; give both sets.")
    solver = EKFAC() if solver is None else solver
    with modes_restored(model, training=False):
        problem = Problem(model, task, train if curvature is None else curvature, torch.Generator().manual_seed(seed))
        solver.update(problem)
        v, query_loss = mean_gradient(model, task.query_loss, queries)
        q = solver.solve(v, problem)
        rows = []
        for batch in train:
            rows.append(-inner_products(model, task.training_loss, batch, q, coupled=task.coupled))
            if on_batch is not None:
                on_batch(len(batch))
    return Scores(torch.cat([batch.index for batch in train]), torch.cat(rows), query_loss, repr(solver))
