"""The inverse by conjugate gradients on curvature-vector products."""

import warnings
from collections.abc import Mapping
from typing import final

import torch
from torch import Tensor

from limbeck.core.checks import not_negative, positive, whole
from limbeck.core.errors import UsageError
from limbeck.core.shown import shown
from limbeck.influence.curvature.products import Curvature, curvature_product, damping_of, missing
from limbeck.influence.curvature.solver import Problem, Solver
from limbeck.influence.curvature.together import Together
from limbeck.influence.vectors import Vector, combine, dot, scaled, zeros_like


@final
class ConjugateGradient(Solver):
    """q = (H + lambda I)^-1 v by conjugate gradients; no matrix is ever formed.

    With a Kronecker preconditioner, five steps on the Gauss-Newton matrix give a phi that can be read as a change of loss.

    Args:
        damping: lambda relative to v'Hv / v'v, the curvature along the gradient, >= 0; or lambda itself where relative is false.
        steps: Most products, >= 1.
        relative: Whether damping is relative.
        curvature: `gauss_newton`, or `hessian`, which stops with a warning at negative curvature.
        tolerance: Stop when the residual's norm falls below this share of v's, > 0.
        preconditioner: A solver whose inverse comes first, such as EKFAC(); None for none.

    Reference: Martens, 2010, sec. 4 (Hessian-free optimisation), for curvature products and damping in learning.
    Differs from the paper: stops on the residual, not on the quadratic's progress.

    >>> ConjugateGradient(steps=5)
    ConjugateGradient(damping=0.02, steps=5)
    """

    def __init__(
        self,
        damping: float = 0.02,
        steps: int = 50,
        *,
        relative: bool = True,
        curvature: Curvature = "gauss_newton",
        tolerance: float = 1e-6,
        preconditioner: Solver | None = None,
    ) -> None:
        self.damping = not_negative(damping, "ConjugateGradient: damping")
        self.steps = whole(steps, "ConjugateGradient: steps")
        self.relative = relative
        if curvature not in ("gauss_newton", "hessian"):
            raise UsageError(f"ConjugateGradient: curvature must be 'gauss_newton' or 'hessian', got {curvature!r}.")
        self.curvature: Curvature = curvature
        self.tolerance = positive(tolerance, "ConjugateGradient: tolerance")
        self.preconditioner = preconditioner

    def obstacles(self, problem: Problem) -> list[str]:
        """A derivative that the products lack, and what the preconditioner has against the model."""
        inner = [] if self.preconditioner is None else self.preconditioner.obstacles(problem)
        return [*missing(problem, self.curvature), *inner]

    def wants(self, step: int, most: int) -> int:
        """The preconditioner's."""
        return 0 if self.preconditioner is None else self.preconditioner.wants(step, most)

    def update(self, problem: Problem, step: int | None = None) -> None:
        """Renew the preconditioner; the products themselves are always fresh."""
        if self.preconditioner is not None:
            self.preconditioner.update(problem, step)

    def solve(self, v: Vector, problem: Problem) -> Vector:
        """q; warns where it stopped at negative curvature."""
        norm = dot(v, v)
        if norm == 0:
            return v
        damping = damping_of(problem, v, self.curvature, self.damping, relative=self.relative)
        q, residual = zeros_like(v), v
        ready = self._precondition(residual, problem)
        direction, size = ready, dot(residual, ready)
        for _ in range(self.steps):
            bent = combine(curvature_product(problem, direction, self.curvature), damping, direction)
            along = dot(direction, bent)
            if along <= 0:
                _warn_of_negative_curvature()
                break
            q = combine(q, size / along, direction)
            residual = combine(residual, -size / along, bent)
            if dot(residual, residual) <= self.tolerance**2 * norm:
                break
            ready = self._precondition(residual, problem)
            previous, size = size, dot(residual, ready)
            direction = combine(ready, size / previous, direction)
        return q

    def solve_many(self, rows: Vector, problem: Problem) -> Vector:
        """`solve` for K gradients in step, so that their products share passes; each stops where it would stop alone."""
        norm = row_dots(rows, rows)
        going, met = norm > 0, torch.zeros_like(norm, dtype=torch.bool)
        products = Together(problem, self.curvature)
        damping = self._dampings(rows, norm, products)
        q, residual = zeros_like(rows), rows
        direction = ready = self._precondition_many(residual, problem)
        size = row_dots(residual, ready)
        for _ in range(self.steps):
            bent = along_rows(products(direction), damping, direction)
            along = row_dots(direction, bent)
            met |= going & (along <= 0)
            going &= along > 0
            length = torch.where(going, size / along, 0.0)
            q, residual = along_rows(q, length, direction), along_rows(residual, -length, bent)
            going &= row_dots(residual, residual) > self.tolerance**2 * norm
            if not bool(going.any()):
                break
            ready = self._precondition_many(residual, problem)
            previous, size = size, row_dots(residual, ready)
            direction = along_rows(ready, torch.where(going, size / previous, 0.0), direction)
        if bool(met.any()):
            _warn_of_negative_curvature()
        return {name: torch.where(_beside(norm == 0, part), rows[name], part) for name, part in q.items()}

    def _dampings(self, rows: Vector, norm: Tensor, products: Together) -> Tensor:
        """As `damping_of`, [K]."""
        if not self.relative:
            return torch.full_like(norm, self.damping)
        bent = row_dots(rows, products(rows))
        return self.damping * (bent / torch.where(norm > 0, norm, 1.0)).clamp(min=0)

    def _precondition_many(self, residual: Vector, problem: Problem) -> Vector:
        return dict(residual) if self.preconditioner is None else self.preconditioner.solve_many(residual, problem)

    def _precondition(self, residual: Vector, problem: Problem) -> Vector:
        return scaled(residual, 1.0) if self.preconditioner is None else self.preconditioner.solve(residual, problem)

    def state(self) -> dict[str, Tensor]:
        """The preconditioner's state."""
        return {} if self.preconditioner is None else self.preconditioner.state()

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `state` gave."""
        if self.preconditioner is not None:
            self.preconditioner.load_state(state)

    def __repr__(self) -> str:
        return shown(self, "damping", "steps")


def _warn_of_negative_curvature() -> None:
    warnings.warn(
        "ConjugateGradient: met negative curvature and stopped there; use curvature='gauss_newton' or more damping.", stacklevel=3
    )


def row_dots(a: Vector, b: Vector) -> Tensor:
    """<a_k, b_k> of K vectors stacked along a first axis, [K], in float64 as `dot`."""
    return torch.stack([(part * b[name]).flatten(1).sum(1).double() for name, part in a.items()]).sum(0)


def along_rows(a: Vector, scales: Tensor, b: Vector) -> Vector:
    """a_k + scale_k * b_k."""
    return {name: part + (_beside(scales, part) * b[name]).to(part.dtype) for name, part in a.items()}


def _beside(values: Tensor, part: Tensor) -> Tensor:
    """[K] in the shape in which it multiplies [K, ...]."""
    return values.view(-1, *[1] * (part.dim() - 1))
