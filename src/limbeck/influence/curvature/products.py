"""Products of a curvature matrix with a vector, and the dense matrix of small models. Each is of the mean training loss."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import grad, jvp, vjp, vmap

from limbeck.core.batch import Batch
from limbeck.core.errors import UnsupportedModelError
from limbeck.core.outputs import Outputs
from limbeck.influence.curvature.solver import Problem
from limbeck.influence.gradients import at, missing_derivative, moving
from limbeck.influence.restoring import random_state, statistics_untouched
from limbeck.influence.vectors import Vector, dot, flatten, scaled, trainable, unflatten, zeros_like

Curvature = Literal["gauss_newton", "hessian"]

NUMBERS = 2**22
"""About how many numbers a layer's outputs may have for all directions that go through the model together."""


def curvature_product(problem: Problem, u: Vector, kind: Curvature) -> Vector:
    """H u for the mean training loss over the problem's samples, without damping.

    `gauss_newton` is J' Lambda J with Lambda the Hessian of the loss in the model's outputs: positive semi-definite for
    cross-entropy and for distillation on logits. `hessian` is the true one, indefinite away from a minimum. All products of
    one problem draw the same dropout masks, so that they are products with one matrix.

    Raises:
        UnsupportedModelError: A layer lacks a derivative that such a product needs.
        RuntimeError: Whatever else the model itself raises.
    """
    one = _gauss_newton_product if kind == "gauss_newton" else _hessian_product
    total = zeros_like(u)
    for batch in problem.batches:
        try:
            with moving(problem.model):
                part = one(problem, batch, u)
        except (NotImplementedError, RuntimeError) as error:
            why = missing_derivative(error)
            if not why:
                raise
            raise UnsupportedModelError(
                f"curvature products: {type(problem.model).__name__} lacks a derivative that they need ({why}); use EKFAC()."
            ) from error
        total = {name: t + part[name] for name, t in total.items()}
    return {name: t / problem.count for name, t in total.items()}


def missing(problem: Problem, kind: Curvature) -> list[str]:
    """Which derivative the products lack, tried on the problem's samples; empty where they lack none."""
    try:
        curvature_product(problem, _own(problem), kind)
    except UnsupportedModelError as error:
        return [str(error).rstrip(".")]
    return []


def curvature_products(problem: Problem, rows: Vector, kind: Curvature) -> Vector:
    """H u for K directions stacked along a first axis; as many go through the model together as fit, by its widest output."""
    together = max(1, NUMBERS // max(1, _widest(problem) * max(map(len, problem.batches))))
    if together == 1:  # a pass of its own costs no more, and takes less memory
        each = [curvature_product(problem, {n: part[k] for n, part in rows.items()}, kind) for k in range(_count(rows))]
        return {name: torch.stack([one[name] for one in each]) for name in rows}
    products: Vector = vmap(lambda u: curvature_product(problem, u, kind), randomness="same", chunk_size=together)(rows)
    return products


def _count(rows: Vector) -> int:
    return len(next(iter(rows.values())))


def _widest(problem: Problem) -> int:
    """The most numbers that a module gives for one sample."""
    sizes = [1]

    def hook(_module: nn.Module, _inputs: object, output: object) -> None:
        if isinstance(output, Tensor):
            sizes.append(output.numel())

    few = next(batch for batch in problem.batches if len(batch)).take(slice(0, 1))
    handles = [module.register_forward_hook(hook) for module in problem.model.modules()]
    try:
        with torch.no_grad(), statistics_untouched(problem.model), random_state(torch.get_rng_state()):
            problem.model(few)
    finally:
        for handle in handles:
            handle.remove()
    return max(sizes)


def damping_of(problem: Problem, v: Vector, kind: Curvature, damping: float, *, relative: bool) -> float:
    """lambda: as given, or relative to v'Hv / v'v, the curvature along v (none where that is negative)."""
    if not relative:
        return damping
    return damping * max(float(dot(v, curvature_product(problem, v, kind)) / dot(v, v)), 0.0)


def largest_eigenvalue(problem: Problem, start: Vector, kind: Curvature) -> float:
    """The largest eigenvalue in size, by power iteration; from below, by a few per cent after twenty steps."""
    u, value = start, 0.0
    for _ in range(20):
        u = scaled(u, 1 / float(dot(u, u)) ** 0.5)
        bent = curvature_product(problem, u, kind)
        value = float(dot(bent, bent)) ** 0.5
        if value == 0:
            break
        u = bent
    return value


def _own(problem: Problem) -> Vector:
    return {name: part.detach() for name, part in trainable(problem.model).items()}


def _answer(problem: Problem, parameters: Vector, batch: Batch) -> Outputs:
    """What the model says at these parameters; dropout draws the same mask each time, so that J and J' belong together."""
    with random_state(torch.Generator().manual_seed(problem.generator.initial_seed()).get_state()):
        return at(problem.model, parameters)(batch)


def _gauss_newton_product(problem: Problem, batch: Batch, u: Vector) -> Vector:
    """Sum over the batch of J_i' Lambda_i J_i u."""
    names: list[str] = []

    def outputs(parameters: Vector) -> tuple[Tensor, ...]:
        answer = _answer(problem, parameters, batch)
        names[:] = answer.features
        return (answer.logits, *answer.features.values())

    def loss(*parts: Tensor) -> Tensor:
        answer = Outputs(parts[0], dict(zip(names, parts[1:], strict=True)))
        return problem.task.training_loss(lambda _: answer, batch).sum()

    own = _own(problem)
    moved: tuple[Tensor, ...] = jvp(outputs, (own,), (u,))[1]
    primal, back = vjp(outputs, own)[:2]
    slope: Callable[..., tuple[Tensor, ...]] = grad(loss, argnums=tuple(range(len(primal))))
    twice = vjp(slope, *(part.detach() for part in primal))[1]  # symmetric: backward twice, which softmax has a kernel for
    bent: tuple[Tensor, ...] = twice(tuple(part.detach() for part in moved))
    (product,) = back(bent)
    return {name: part.detach() for name, part in product.items()}


def _hessian_product(problem: Problem, batch: Batch, u: Vector) -> Vector:
    """Sum over the batch of the Hessian of l_i times u, backward twice: it is symmetric."""
    slope = grad(lambda own: problem.task.training_loss(lambda part: _answer(problem, own, part), batch).sum())
    (product,) = vjp(slope, _own(problem))[1](u)
    return {name: part.detach() for name, part in product.items()}


def dense(problem: Problem, kind: Curvature) -> Tensor:
    """The whole matrix, [P, P], 32 products at a time: for small models and for tests."""
    own = _own(problem)
    basis = torch.eye(flatten(own).numel()).to(flatten(own))

    def column(unit: Tensor) -> Tensor:
        return flatten(curvature_product(problem, unflatten(unit, own), kind))

    columns: Tensor = vmap(column, randomness="same", chunk_size=32)(basis)
    return columns.T
