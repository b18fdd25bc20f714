"""Scores of single tokens: which words of a training text helped or harmed."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limbeck.core.batch import Batch
from limbeck.core.errors import LimbeckError, ShapeError, UnsupportedModelError
from limbeck.core.outputs import Outputs
from limbeck.influence.curvature.solver import Solver
from limbeck.influence.gradients import Loss, logit_tangents, missing_derivative
from limbeck.influence.prepared import prepare
from limbeck.influence.task import Task
from limbeck.influence.vectors import Vector, trainable


@dataclass(frozen=True)
class TokenScores:
    """Influence on the mean query loss, by sample and position.

    Args:
        index: [N] int64, the samples' identities.
        phi: [N, L], > 0 harmful; 0 for tokens that do not count and beyond a shorter batch's end. A sample's sum is its score.
        query_loss: The mean query loss at the model scored (nats).
        solver: The inverse, as typed.
    """

    index: Tensor
    phi: Tensor
    query_loss: float
    solver: str


def score_tokens(
    model: nn.Module,
    task: Task,
    train: Iterable[Batch],
    queries: Iterable[Batch],
    solver: Solver | None = None,
    *,
    seed: int = 0,
    on_batch: Callable[[int], None] | None = None,
) -> TokenScores:
    """The share of each predicted token in its sample's score: -(gradient of the loss in its logits)' (its logits' move along q).

    Args:
        model: Called with a batch, answers with logits [B, L, V].
        task: The training and the query loss. The training loss reads logits only, and does not couple samples.
        train: Training batches, anything that can be read again and again.
        queries: Query batches.
        solver: The inverse; EKFAC() where none is named.
        seed: Seed of the labels drawn for the Fisher matrix.
        on_batch: Called with the number of samples after each batch.

    Raises:
        UsageError: There is no query or no training sample.
        UnsupportedModelError: The model or the loss cannot be handled.

    Reference: Grosse et al., 2023, arXiv:2308.03296, for influence by token. Differs from the paper: the share of a predicted
    token, taken from forward derivatives of the logits.
    """
    ready = prepare(model, task, train, queries, solver, seed=seed, also=partial(_obstacles, model, task))
    q, query_loss = ready.direction()
    index, rows = [], []
    with ready.evaluating():
        for batch in ready.train:
            index.append(batch.index)
            rows.append(-_shares(model, task.training_loss, batch, q))
            if on_batch is not None:
                on_batch(len(batch))
    length = max(part.shape[1] for part in rows)
    phi = torch.cat([F.pad(part, (0, length - part.shape[1])) for part in rows])
    return TokenScores(torch.cat(index), phi, query_loss, repr(ready.solver))


def _obstacles(model: nn.Module, task: Task, few: Batch) -> list[str]:
    """Why no share of a token can be told, all reasons."""
    said = ["the training loss couples the samples of a batch; use terms that do not"] if task.coupled else []
    try:
        _shares(model, task.training_loss, few, trainable(model))
    except LimbeckError as error:
        said.append(str(error).rstrip("."))
    return said


def _shares(model: nn.Module, loss: Loss, batch: Batch, q: Vector) -> Tensor:
    """<d loss_i / d logits_il, J_il q> for every sample and position, [B, L].

    Raises:
        ShapeError: The model answers for samples, not for tokens.
        UnsupportedModelError: The loss reads features, or a layer has no forward derivative.
        RuntimeError: Whatever else the model itself raises.
    """
    with torch.no_grad():
        answer: Outputs = model(batch)
    if answer.logits.dim() != 3:
        raise ShapeError(f"score_tokens: logits must be [B, L, V], got {list(answer.logits.shape)}; use score.")
    leaves = answer.map(lambda part: part.detach().requires_grad_())
    inner = list(leaves.features.values())
    with torch.enable_grad():
        slopes, *others = torch.autograd.grad(loss(lambda _: leaves, batch).sum(), [leaves.logits, *inner], allow_unused=True)
    if any(part is not None for part in others):
        raise UnsupportedModelError("score_tokens: the training loss reads inner features, which belong to no single token.")
    try:
        moved, _ = logit_tangents(model, trainable(model), batch, q)
    except (NotImplementedError, RuntimeError) as error:
        why = missing_derivative(error)
        if not why:
            raise
        raise UnsupportedModelError(f"score_tokens: {type(model).__name__} has no forward derivative ({why}).") from error
    return (slopes * moved).sum(2)
