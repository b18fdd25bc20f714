"""Gauss-Newton products with many directions at once: by every sample's output gradients, written out, where that is cheaper.

A pass for each direction costs about seven times the model's multiplications in it. Written out, J of some samples costs a pass
for each logit, and then serves all directions in two matrix products. With more queries than classes, and weights that are used
at many positions (convolutions), the second is many times cheaper. J is kept where it is small, and else made anew each time.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import final

import torch
from torch import Tensor, nn
from torch.func import grad, vjp, vmap

from limbeck.core.batch import Batch
from limbeck.core.errors import LimbeckError
from limbeck.core.outputs import Outputs
from limbeck.influence.captured import Call, Capture, obstacles
from limbeck.influence.curvature.products import Curvature, curvature_products
from limbeck.influence.curvature.solver import Problem, first_samples
from limbeck.influence.rows import OutputRows
from limbeck.influence.vectors import Vector, flatten, trainable

NUMBERS = 2**24
"""Most numbers of output gradients that are written out at a time."""
HELD = 2**27
"""Most numbers of output gradients that are kept from one product to the next: of all samples, or of none."""
TRIAL = 8
"""Samples that the two ways are compared on."""
TOLERANCE = 1e-3
"""Largest difference between the products of the two, relative to their norm."""
PASSES = 7
"""A product with one direction in multiplications of a forward pass: measured with convolutions."""

Part = tuple[Tensor, Tensor]
"""Of some samples, J [b M, P] and the Hessians of their losses in their logits, [b, M, M]."""


@final
class Together:
    """H u for K directions stacked along a first axis, again and again, by the cheaper of two ways that agree.

    Args:
        problem: What curvature is taken of; its model stays as it is while products are asked for.
        kind: The matrix.
    """

    def __init__(self, problem: Problem, kind: Curvature) -> None:
        self.problem, self.kind = problem, kind
        self.written: bool | None = None
        self.held: list[Part] | None = None
        self.shared: set[str] = set()

    def __call__(self, rows: Vector) -> Vector:
        """The products, [K, ...] by parameter name; the first call chooses the way."""
        if self.written is None:
            self.written = pays(self.problem, self.kind, rows) and _agrees(self.problem, self.kind, rows, self.shared)
            if self.written and self.problem.count * _logits(self.problem) * _numbers(self.problem) <= HELD:
                self.held = list(written(self.problem, self.shared))
        if not self.written:
            return curvature_products(self.problem, rows, self.kind)
        return products_of(written(self.problem, self.shared) if self.held is None else self.held, rows, self.problem.count)


def written(problem: Problem, shared: set[str] | None = None) -> Iterator[Part]:
    """J and the losses' Hessians of all samples, some at a time.

    Args:
        problem: Its model is in evaluation mode, its loss one of the logits alone, sample by sample.
        shared: Names of embeddings that all samples look up alike, as far as they are known (see `Capture`).
    """
    together = max(1, NUMBERS // (_numbers(problem) * _logits(problem)))
    for batch in problem.batches:
        for start in range(0, len(batch), together):
            piece = batch.take(slice(start, start + together))
            found = OutputRows(problem.model, piece, shared)
            yield found.matrix, output_hessians(problem, piece, found.answer)


def products_of(parts: Iterable[Part], rows: Vector, count: int) -> Vector:
    """J' Lambda J u of the mean loss for K directions stacked along a first axis, by parameter name as they are.

    Args:
        parts: Of all samples.
        rows: [K, ...] by parameter name, of all trained parameters in their order.
        count: Samples.
    """
    flat = torch.cat([part.flatten(1) for part in rows.values()], 1)
    total = torch.zeros_like(flat)
    for matrix, hessians in parts:
        moved = (matrix @ flat.T).view(*hessians.shape[:2], -1)
        total.addmm_((hessians @ moved).flatten(0, 1).T, matrix)
    pieces = torch.split(total / count, [part[0].numel() for part in rows.values()], 1)
    return {name: piece.view_as(part) for (name, part), piece in zip(rows.items(), pieces, strict=True)}


def output_hessians(problem: Problem, batch: Batch, answer: Outputs) -> Tensor:
    """The Hessian of every sample's training loss in its logits, [B, M, M]; the loss does not couple the samples."""
    shape = answer.logits.shape

    def loss(flat: Tensor) -> Tensor:
        moved = Outputs(flat.view(shape), answer.features)
        return problem.task.training_loss(lambda _: moved, batch).sum()

    flat = answer.logits.detach().flatten(1)
    twice = vjp(grad(loss), flat)[1]
    units = torch.eye(flat.shape[1]).to(flat).unsqueeze(1).expand(-1, len(batch), -1)
    columns: Tensor = vmap(lambda unit: twice(unit)[0], randomness="same")(units)
    return columns.detach().transpose(0, 1)


def pays(problem: Problem, kind: Curvature, rows: Vector) -> bool:
    """Whether output gradients may be written out, and take fewer multiplications than a pass for each direction.

    Args:
        problem: What curvature is taken of.
        kind: The matrix.
        rows: [K, ...] by parameter name.
    """
    model, directions = problem.model, len(next(iter(rows.values())))
    moving = kind != "gauss_newton" or problem.task.coupled or any(module.training for module in model.modules())
    if moving or obstacles(model) or [*rows] != [*trainable(model)]:
        return False
    capture = Capture(model)
    with torch.no_grad(), capture.recording(1):
        logits = int(model(first_samples(problem.batches, 1)).logits.numel())
    forward, written = sum(map(_multiplications, capture.calls)), _numbers(problem) * logits
    return written <= NUMBERS and forward * (1 + 2 * logits) + 2 * written * directions < PASSES * forward * directions


def _multiplications(call: Call) -> int:
    """Of one sample in a layer's forward pass."""
    layer = call.layer
    if isinstance(layer, nn.Linear):
        return layer.weight.numel() * (call.shape.numel() // layer.out_features)
    if isinstance(layer, nn.Conv1d | nn.Conv2d):
        return layer.weight.numel() * (call.shape.numel() // layer.out_channels)
    return 0


def _agrees(problem: Problem, kind: Curvature, rows: Vector, shared: set[str]) -> bool:
    """Whether a loss of the logits alone, and layers that own their weights, give the same product with a first direction."""
    few = replace(problem, batches=[first_samples(problem.batches, TRIAL)])
    one = {name: part[:1] for name, part in rows.items()}
    exact = flatten(curvature_products(few, one, kind))
    try:
        found = flatten(products_of(written(few, shared), one, few.count))
    except (LimbeckError, RuntimeError, NotImplementedError, TypeError, ValueError):  # whatever the model makes of it
        return False
    return float((found - exact).norm()) <= TOLERANCE * float(exact.norm())


def _logits(problem: Problem) -> int:
    """Of a sample."""
    with torch.no_grad():
        return int(problem.model(first_samples(problem.batches, 1)).logits.numel())


def _numbers(problem: Problem) -> int:
    """Of trained parameters."""
    return sum(part.numel() for part in trainable(problem.model).values())
