"""A finished model made ready to be scored: everything that could not be handled is said before any work, all at once."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import final, overload

import torch
from torch import Tensor, nn

from limbeck.core.batch import Batch
from limbeck.core.checks import of_kind
from limbeck.core.errors import LimbeckError, UnsupportedModelError, UsageError
from limbeck.core.outputs import Outputs
from limbeck.engine.engine import Engine
from limbeck.influence.curvature.ekfac import EKFAC
from limbeck.influence.curvature.solver import Problem, Solver, first_samples
from limbeck.influence.gradients import Loss, mean_gradient, plain_attention
from limbeck.influence.restoring import evaluating
from limbeck.influence.task import Task
from limbeck.influence.vectors import Vector, trainable
from limbeck.influence.ways import TOLERANCE, Choice, choose, scoring_pass

TRIAL = 16
"""Samples that a way is tried on: enough to see whether samples meet inside the model, too few to cost."""


@final
class Reread(Sequence[Batch]):
    """Batches that are read anew for every pass, so that no more than one of them is held.

    Args:
        source: What gives the batches whenever it is iterated over, such as a `Loader`.
    """

    def __init__(self, source: Iterable[Batch]) -> None:
        self.source = source

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.source)

    def __len__(self) -> int:
        return sum(1 for _ in self.source)

    @overload
    def __getitem__(self, place: int) -> Batch: ...
    @overload
    def __getitem__(self, place: slice) -> list[Batch]: ...
    def __getitem__(self, place: int | slice) -> Batch | list[Batch]:
        if isinstance(place, slice):
            return list(self.source)[place]
        return next(islice(iter(self.source), place, None))


def rereadable(batches: Iterable[Batch], what: str) -> Sequence[Batch]:
    """The batches as something that can be read again and again.

    Raises:
        UsageError: They are no batches, can be read once only, or there are none.
    """
    if isinstance(batches, Batch):
        raise UsageError(f"score: {what} must be several batches, got a single one; write it as a list of one.")
    if isinstance(batches, Iterator):
        raise UsageError(f"score: {what} is an iterator, which can be read once only; give a list of batches or a Loader.")
    found = batches if isinstance(batches, Sequence) else Reread(batches)
    for batch in found:
        of_kind(batch, Batch, f"score: what {what} holds", "make Batch(inputs, labels, index) of tensors, or take a Loader")
        break
    if not any(len(batch) for batch in found):
        raise UsageError("score: needs at least one training and one query sample; give both sets.")
    return found


@dataclass(frozen=True)
class Prepared:
    """A model whose curvature is taken, and how its inner products are to be.

    Args:
        problem: Model, task and the batches that curvature is taken of.
        train: Training batches.
        queries: Query batches with trusted labels.
        solver: The inverse, its curvature estimated.
        way: How inner products with the training gradients are taken.
        query_way: The same for the query loss.
        products: <q, g_i> for every sample of a training batch, [B], in evaluation mode.
    """

    problem: Problem
    train: Sequence[Batch]
    queries: Sequence[Batch]
    solver: Solver
    way: Choice
    query_way: Choice
    products: Callable[[Batch, Vector], Tensor]

    @property
    def model(self) -> nn.Module:
        """The model."""
        return self.problem.model

    @property
    def task(self) -> Task:
        """The two losses."""
        return self.problem.task

    def direction(self) -> tuple[Vector, float]:
        """The direction q for the mean query loss, and that loss (nats)."""
        with self.evaluating():
            v, loss = mean_gradient(self.model, self.task.query_loss, self.queries)
            return self.solver.solve(v, self.problem), loss

    def evaluating(self) -> AbstractContextManager[None]:
        """The model in evaluation mode; its modes and buffers are afterwards as they were, whatever happens."""
        return evaluating(self.model)


def prepare(
    model: nn.Module,
    task: Task,
    train: Iterable[Batch],
    queries: Iterable[Batch] | None,
    solver: Solver | None = None,
    *,
    curvature: Iterable[Batch] | None = None,
    seed: int = 0,
    alone: Sequence[str] = (),
    also: Callable[[Batch], list[str]] | None = None,
) -> Prepared:
    """Look at everything, choose the cheapest exact way by trial, and estimate the curvature.

    Args:
        model: Called with a batch, answers with `Outputs` (see `Tapped`).
        task: The training and the query loss.
        train: Training batches.
        queries: Query batches; None where only training samples matter.
        solver: The inverse; EKFAC() where none is named.
        curvature: Batches that the curvature is estimated from; None takes the training batches.
        seed: Seed of the labels drawn for the Fisher matrix.
        alone: `training loss`, `query loss` or both, where gradients of single samples are asked for: the model must then
            answer for a sample by itself as it does in a batch.
        also: Further reasons against the model; asked with a few training samples.

    Raises:
        UnsupportedModelError: The model or a loss cannot be handled; every reason is named.
        UsageError: There is no query or no training sample.
    """
    train, asked = rereadable(train, "train"), () if queries is None else rereadable(queries, "queries")
    solver = EKFAC() if solver is None else solver
    bent = train if curvature is None else rereadable(curvature, "curvature")
    _answering(model, first_samples(train, TRIAL))
    problem = Problem(model, task, bent, torch.Generator().manual_seed(seed))
    sides: list[tuple[str, Loss, Sequence[Batch], bool]] = [("training loss", task.training_loss, train, task.coupled)]
    sides += [] if queries is None else [("query loss", task.query_loss, asked, False)]
    choices, reasons = [], [] if trainable(model) else ["no parameter is trained"]
    with evaluating(model):
        for what, loss, batches, coupled in sides:
            few = first_samples(batches, TRIAL)
            try:
                choices.append(_tried(model, what, loss, few, coupled=coupled))
                reasons += _meeting(model, what, loss, few) if what in alone and not coupled else []
            except LimbeckError as error:
                reasons.append(str(error).rstrip("."))
        reasons += _further(problem, solver, first_samples(train, TRIAL), also)
        if reasons:
            said = "; ".join(dict.fromkeys(reasons))
            raise UnsupportedModelError(f"score: {type(model).__name__} cannot be scored: {said}.")
        solver.update(problem)
        passing = scoring_pass(choices[0], model, task.training_loss, coupled=task.coupled)
    return Prepared(problem, train, asked, solver, choices[0], choices[-1], passing)


def _answering(model: nn.Module, few: Batch) -> None:
    """See that the model is called with a batch.

    Raises:
        UsageError: It is called with tensors.
        AttributeError: It fails otherwise.
        TypeError: It fails otherwise.
    """
    of_kind(model, nn.Module, "score: model", "build an architecture first, such as MLP().build(spec)")
    try:
        with evaluating(model), torch.no_grad():
            found = model(few)
    except (AttributeError, TypeError) as error:
        if "Batch" not in str(error):
            raise
        found = None
    if not isinstance(found, Outputs):
        raise UsageError(f"score: {type(model).__name__} is called with tensors, not with a Batch; wrap it, Tapped(model).")


def _tried(model: nn.Module, what: str, loss: Loss, few: Batch, *, coupled: bool) -> Choice:
    """The way that fits a loss; the trial's direction is the mean gradient.

    Raises:
        UnsupportedModelError: The loss is not one finite value per sample.
    """
    with torch.no_grad():
        values = loss(model, few)
    if values.shape != (len(few),) or not bool(torch.isfinite(values).all()):
        wrong = int((~torch.isfinite(values)).sum())
        raise UnsupportedModelError(
            f"the {what} must be one finite value per sample, got {list(values.shape)} with {wrong} that are not finite"
        )
    if not trainable(model):
        return Choice("separate")
    v, _ = mean_gradient(model, loss, [few])
    if not all(bool(torch.isfinite(part).all()) for part in v.values()):
        raise UnsupportedModelError(f"the gradient of the {what} is not finite")
    with torch.no_grad(), plain_attention():
        return choose(model, loss, few, v, torch.get_rng_state(), coupled=coupled)


def _meeting(model: nn.Module, what: str, loss: Loss, few: Batch) -> list[str]:
    """Why a sample has no gradient of its own: it meets the others of its batch inside the model."""
    with torch.no_grad():
        together = loss(model, few)
        try:
            alone = loss(model, few.take(slice(0, 1)))
        except (RuntimeError, ValueError) as error:  # batch normalisation of a single row, for one
            return [f"the {what} of a sample by itself cannot be had ({str(error).partition(chr(10))[0].rstrip('.')})"]
    if len(few) > 1 and not torch.allclose(alone[0], together[0], rtol=TOLERANCE, atol=TOLERANCE):
        return [f"the {what} of a sample depends on the others of its batch, which meet inside the model"]
    return []


def _further(problem: Problem, solver: Solver, few: Batch, also: Callable[[Batch], list[str]] | None) -> list[str]:
    """What the solver and the kind of score have against the model."""
    if not trainable(problem.model):
        return []
    drawing = torch.Generator().manual_seed(problem.generator.initial_seed())  # the curvature's own draws stay as they are
    asks: list[Callable[[], list[str]]] = [partial(solver.obstacles, replace(problem, batches=[few], generator=drawing))]
    asks += [] if also is None else [partial(also, few)]
    found = []
    for ask in asks:
        try:
            found += ask()
        except LimbeckError as error:
            found.append(str(error).rstrip("."))
    return found


def each_batch(
    batches: Iterable[Batch],
    values_of: Callable[[Batch], Tensor],
    *,
    rows: int | None = None,
    dtype: torch.dtype,
    engine: Engine | None = None,
    on_batch: Callable[[int], None] | None = None,
) -> tuple[Tensor, Tensor]:
    """Identities [N] and a value for every sample [N], in the order of the batches; processes take turns, and all get all.

    Args:
        batches: The samples.
        values_of: [B] of a batch, or [rows, B].
        rows: How many values there are for each sample; None for one, without an axis.
        dtype: Of the values.
        engine: How many processes there are; None for one.
        on_batch: Called with the number of samples after each batch.
    """
    processes, rank = (1, 0) if engine is None else (engine.processes, engine.rank)
    lead = () if rows is None else (rows,)
    index, values = [], []
    for number, batch in enumerate(batches):
        index.append(batch.index)
        if number % processes == rank:
            values.append(values_of(batch).to(dtype))
        else:
            values.append(torch.zeros(*lead, len(batch), dtype=dtype, device=batch.index.device))
        if on_batch is not None:
            on_batch(len(batch))
    found = torch.cat(values, -1)
    if engine is not None and processes > 1:
        found = engine.gather(found.unsqueeze(0)).sum(0)  # one process has the value, the others 0
    return torch.cat(index), found


def dtype_of(model: nn.Module) -> torch.dtype:
    """The precision of the scores: that of the parameters."""
    return next(iter(trainable(model).values())).dtype
