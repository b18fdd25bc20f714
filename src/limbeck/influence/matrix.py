"""The whole query x train matrix of scores in tiles, and the influence of every sample on itself.

A tile is some queries against all training samples. Its directions H^-1 v_j are the only thing that has as many numbers as
queries times parameters, and a bound on memory says how many of them there are; against each training batch they are multiplied
layer by layer (`rows.py`), so that the gradients of a batch's samples are never there whole. The matrix costs about N Q P
multiplications whatever one does: `score` gives its column means for a millionth of that.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from limbeck.core.batch import Batch
from limbeck.core.checks import whole
from limbeck.engine.engine import Engine
from limbeck.influence.curvature.solver import Solver
from limbeck.influence.gradients import mean_gradient, per_sample_gradients_slow
from limbeck.influence.packing import Packed, Packing
from limbeck.influence.prepared import Prepared, dtype_of, each_batch, prepare
from limbeck.influence.rows import Written, rows_of
from limbeck.influence.task import Task
from limbeck.influence.vectors import Vector, trainable

MEMORY = 2**30
"""Bytes that a tile's directions may take, with all that is needed to make them."""
WORK = 4
"""What making a direction takes beside it: its gradient, that gradient in an eigenbasis, both ways."""


@dataclass(frozen=True)
class Tile:
    """Some queries' rows of the matrix.

    Args:
        number: Which tile, from 0; tiles are the same in every run with the same arguments.
        queries: [t] int64, the queries' identities.
        query_loss: [t], each query's loss (nats).
        index: [N] int64, the training samples' identities.
        phi: [t, N]; > 0: more weight on the training sample raises this query's loss.
    """

    number: int
    queries: Tensor
    query_loss: Tensor
    index: Tensor
    phi: Tensor


def score_matrix(
    model: nn.Module,
    task: Task,
    train: Iterable[Batch],
    queries: Iterable[Batch],
    solver: Solver | None = None,
    *,
    tile: int | None = None,
    memory: int = MEMORY,
    keep: str = "full",
    seed: int = 0,
    wanted: Callable[[int], bool] | None = None,
    engine: Engine | None = None,
    on_batch: Callable[[int], None] | None = None,
) -> Iterator[Tile]:
    """phi[j, i] = -v_j' (H + lambda I)^-1 g_i for every query j and every training sample i, tile by tile.

    The mean over the queries is what `score` gives, for solvers that are linear in v. Modes, running statistics and gradients are
    as they were whenever a tile is handed out. Whatever cannot be handled is refused before this returns.

    Args:
        model: Called with a batch, answers with `Outputs`.
        task: The training and the query loss; a query's loss is taken by itself.
        train: Training batches, anything that can be read again and again: they are read once for every tile.
        queries: Query batches.
        solver: The inverse; EKFAC() where none is named.
        tile: Queries in a tile, >= 1; None for as many as `memory` allows.
        memory: Bytes for a tile's directions, >= 1.
        keep: How directions are kept: `full`, `float16`, `int8`, or `rank:R`; fewer bytes make larger tiles and fewer passes.
        seed: Seed of the labels drawn for the Fisher matrix.
        wanted: Asked with a tile's number whether to compute it; the others are passed over. For resuming.
        engine: Several processes take turns at the training batches of a tile, and each gets all tiles.
        on_batch: Called with the number of samples after each training batch of each tile.

    Raises:
        UsageError: There is no query or no training sample, or an argument is out of its range.
        UnsupportedModelError: The model cannot be handled; every reason is named.

    Reference: Koh, Liang, 2017, arXiv:1703.04730, eq. 2; low-rank queries after Grosse et al., 2023, arXiv:2308.03296.
    Differs from the papers: as in `score`.
    """
    packing, memory = Packing(keep), whole(memory, "score_matrix: memory")
    size = whole(tile, "score_matrix: tile") if tile is not None else 0
    ready = prepare(model, task, train, queries, solver, seed=seed, alone=("query loss",))
    size = size or tile_size(model, memory, packing, samples=ready.problem.count)
    return tiles_of(ready, size, packing, memory=memory, wanted=wanted, engine=engine, on_batch=on_batch)


def tile_size(model: nn.Module, memory: int = MEMORY, packing: Packing | None = None, *, samples: int = 0) -> int:
    """How many queries a tile may have within so many bytes, >= 1.

    Half of them are for making directions, half for keeping them; a tile's rows of scores are to take a quarter at the most.

    Args:
        model: Whose trained parameters have directions.
        memory: Bytes.
        packing: How directions are kept; whole where none is named.
        samples: Training samples, that is scores in a row.
    """
    own = trainable(model)
    kept = sum(map((packing or Packing()).bytes_of, own.values()))
    row = samples * max((part.element_size() for part in own.values()), default=0)
    return max(1, min(memory // 2 // max(kept, 1), memory // 4 // max(row, 1)))


def tiles_of(
    ready: Prepared,
    size: int,
    packing: Packing | None = None,
    *,
    memory: int = MEMORY,
    wanted: Callable[[int], bool] | None = None,
    engine: Engine | None = None,
    on_batch: Callable[[int], None] | None = None,
) -> Iterator[Tile]:
    """`score_matrix` on a model that is made ready.

    Args:
        ready: What `prepare` gave, with queries that may be asked about one by one (`alone`).
        size: Queries in a tile, >= 1.
        packing: How directions are kept; whole where none is named.
        memory: As in `score_matrix`.
        wanted: As in `score_matrix`.
        engine: As in `score_matrix`.
        on_batch: As in `score_matrix`.
    """
    packing = packing or Packing()
    parameters = trainable(ready.model)
    at_once = max(1, memory // 2 // (WORK * sum(part.numel() * part.element_size() for part in parameters.values())))
    for number, part in enumerate(_regrouped(ready.queries, size)):
        if wanted is not None and not wanted(number):
            continue
        with ready.evaluating():
            chunks, losses = [], []
            for few in part.split(-(-len(part) // at_once)):
                v, loss = _query_gradients(ready, few)
                chunks.append(packing.pack(ready.solver.solve_many(v, ready.problem)))
                losses.append(loss)
            index, phi = each_batch(
                ready.train,
                partial(_against, ready, chunks),
                rows=len(part),
                dtype=dtype_of(ready.model),
                engine=engine,
                on_batch=on_batch,
            )
        yield Tile(number, part.index, torch.cat(losses), index, phi)


def _regrouped(batches: Iterable[Batch], size: int) -> Iterator[Batch]:
    """The same samples in batches of one size, whatever they came in."""
    waiting: list[Batch] = []
    for batch in batches:
        waiting.append(batch)
        while sum(map(len, waiting)) >= size:
            together = Batch.concat(waiting)
            yield together.take(slice(0, size))
            waiting = [together.take(slice(size, None))] if len(together) > size else []
    if waiting:
        yield Batch.concat(waiting)


def _query_gradients(ready: Prepared, few: Batch) -> tuple[Vector, Tensor]:
    """Every query's gradient, [t, ...] by parameter name, and its loss, [t]."""
    model, loss = ready.model, ready.task.query_loss
    if ready.query_way.way == "captured":
        with torch.no_grad():
            values = loss(model, few)
        parts = [piece.whole() for piece in rows_of(model, loss, few, ready.query_way.shared)]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}, values
    ones = [mean_gradient(model, loss, [few.take(slice(row, row + 1))]) for row in range(len(few))]
    rows = {name: torch.stack([v[name] for v, _ in ones]) for name in ones[0][0]}
    return rows, torch.tensor([value for _, value in ones], dtype=dtype_of(model), device=few.index.device)


def _against(ready: Prepared, chunks: list[dict[str, Packed]], batch: Batch) -> Tensor:
    """-<q_k, g_i> for all directions of a tile, [t, B]."""
    if ready.way.way == "captured":
        pieces = rows_of(ready.model, ready.task.training_loss, batch, ready.way.shared)
        return -torch.cat([torch.cat([rows.products(partial(_unpacked, own)) for own in chunks]) for rows in pieces], 1)
    found = []
    for own in chunks:
        whole_ones = {name: part.unpack() for name, part in own.items()}
        count = len(next(iter(whole_ones.values())))
        found += [ready.products(batch, {name: part[k] for name, part in whole_ones.items()}) for k in range(count)]
    return -torch.stack(found)


def _unpacked(own: dict[str, Packed], name: str) -> Tensor | None:
    return own[name].unpack() if name in own else None


@dataclass(frozen=True)
class SelfInfluence:
    """How far each sample's own loss would fall with more weight on it: large for samples that the model had to memorise.

    Args:
        index: [N] int64, the samples' identities.
        value: [N], g_i' (H + lambda I)^-1 g_i, >= 0 where H is positive semi-definite.
        solver: The inverse, as typed.
    """

    index: Tensor
    value: Tensor
    solver: str


def self_influence(
    model: nn.Module,
    task: Task,
    train: Iterable[Batch],
    solver: Solver | None = None,
    *,
    seed: int = 0,
    engine: Engine | None = None,
    on_batch: Callable[[int], None] | None = None,
) -> SelfInfluence:
    """g_i' (H + lambda I)^-1 g_i for every training sample, g_i the gradient of its training loss.

    K-FAC and EK-FAC take it as squares in the eigenbasis, for about the price of a forward and a backward pass; other solvers
    solve for every sample.

    Args:
        model: Called with a batch, answers with `Outputs`.
        task: Its training loss is taken on both sides.
        train: Training batches, anything that can be read again and again.
        solver: The inverse; EKFAC() where none is named.
        seed: Seed of the labels drawn for the Fisher matrix.
        engine: Several processes take turns at the batches, and each gets all values.
        on_batch: Called with the number of samples after each batch.

    Raises:
        UsageError: There is no sample.
        UnsupportedModelError: The model cannot be handled; every reason is named.

    Reference: Koh, Liang, 2017, arXiv:1703.04730, sec. 5.4. Differs from the paper: the sign is that of a size.
    """
    return self_influence_of(prepare(model, task, train, None, solver, seed=seed, alone=("training loss",)), engine, on_batch)


def self_influence_of(
    ready: Prepared, engine: Engine | None = None, on_batch: Callable[[int], None] | None = None
) -> SelfInfluence:
    """`self_influence` on a model that is made ready.

    Args:
        ready: What `prepare` gave.
        engine: As in `self_influence`.
        on_batch: As in `self_influence`.
    """
    with ready.evaluating():
        index, value = each_batch(
            ready.train, partial(energies, ready), dtype=dtype_of(ready.model), engine=engine, on_batch=on_batch
        )
    return SelfInfluence(index, value, repr(ready.solver))


def energies(ready: Prepared, batch: Batch) -> Tensor:
    """Each sample's g' (H + damping I)^-1 g of a training batch, [B], in pieces that fit into memory."""
    model, loss = ready.model, ready.task.training_loss
    size = sum(part.numel() * part.element_size() for part in trainable(model).values())
    rows = max(1, MEMORY // (WORK * size))
    pieces = [batch] if ready.task.coupled else batch.split(-(-len(batch) // rows))
    if ready.way.way == "captured":
        each = (rows for piece in pieces for rows in rows_of(model, loss, piece, ready.way.shared))
        return torch.cat([ready.solver.energies(rows, ready.problem) for rows in each])
    found = []
    for piece in pieces:
        ones = [piece] if ready.task.coupled else piece.split(len(piece))
        written = [Written(_cut(per_sample_gradients_slow(model, loss, one), model)) for one in ones]
        found += [ready.solver.energies(row, ready.problem) for row in written]
    return torch.cat(found)


def _cut(rows: Tensor, model: nn.Module) -> Vector:
    """Gradients [B, P] by parameter name."""
    own = trainable(model)
    pieces = torch.split(rows, [part.numel() for part in own.values()], 1)
    return {name: piece.reshape(-1, *part.shape) for (name, part), piece in zip(own.items(), pieces, strict=True)}
