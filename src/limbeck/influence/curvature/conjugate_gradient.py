"""The inverse by conjugate gradients on curvature-vector products."""

import warnings
from collections.abc import Mapping
from typing import final

from torch import Tensor

from limbeck.core.checks import not_negative, positive, whole
from limbeck.core.errors import UsageError
from limbeck.influence.curvature.products import Curvature, curvature_product, damping_of, missing
from limbeck.influence.curvature.solver import Problem, Solver
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

    def due(self, step: int) -> bool:
        """Whether the preconditioner wants new samples."""
        return self.preconditioner is not None and self.preconditioner.due(step)

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
                warnings.warn(
                    "ConjugateGradient: met negative curvature and stopped there; use curvature='gauss_newton' or more damping.",
                    stacklevel=2,
                )
                break
            q = combine(q, size / along, direction)
            residual = combine(residual, -size / along, bent)
            if dot(residual, residual) <= self.tolerance**2 * norm:
                break
            ready = self._precondition(residual, problem)
            previous, size = size, dot(residual, ready)
            direction = combine(ready, size / previous, direction)
        return q

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
        kind = "" if self.curvature == "gauss_newton" else ", curvature='hessian'"
        before = "" if self.preconditioner is None else f", preconditioner={self.preconditioner!r}"
        exact = "" if self.relative else ", relative=False"
        return f"ConjugateGradient(damping={self.damping:g}, steps={self.steps}{exact}{kind}{before})"
