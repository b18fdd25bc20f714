"""The inverse by limited-memory BFGS on the quadratic that it solves."""

import warnings
from collections import deque
from typing import final

from torch import Tensor

from limbeck.core.checks import not_negative, positive, whole
from limbeck.core.errors import UsageError
from limbeck.core.shown import shown
from limbeck.influence.curvature.products import Curvature, curvature_product, damping_of, missing
from limbeck.influence.curvature.solver import Problem, Solver
from limbeck.influence.vectors import Vector, combine, dot, scaled, zeros_like


@final
class LBFGS(Solver):
    """q minimises q'(H + lambda I)q / 2 - v'q, by L-BFGS directions with exact steps; no matrix is ever formed.

    With a memory of all steps it walks the path of conjugate gradients; with a short one it forgets, and needs more steps.

    Args:
        damping: lambda relative to v'Hv / v'v, >= 0; or lambda itself where relative is false.
        steps: Most products, >= 1.
        memory: Pairs that are kept, >= 1.
        relative: Whether damping is relative.
        curvature: `gauss_newton`, or `hessian`, which stops with a warning at negative curvature.
        tolerance: Stop when the residual's norm falls below this share of v's, > 0.

    Raises:
        UsageError: An argument is out of its range.

    Reference: Nocedal, 1980, "Updating quasi-Newton matrices with limited storage"; Nocedal, Wright, 2006, alg. 7.4. Differs:
    the step length is exact, since the function is a quadratic.

    >>> LBFGS(steps=20)
    LBFGS(damping=0.02, steps=20)
    """

    def __init__(
        self,
        damping: float = 0.02,
        steps: int = 50,
        *,
        memory: int = 20,
        relative: bool = True,
        curvature: Curvature = "gauss_newton",
        tolerance: float = 1e-6,
    ) -> None:
        self.damping = not_negative(damping, "LBFGS: damping")
        self.steps = whole(steps, "LBFGS: steps")
        self.memory = whole(memory, "LBFGS: memory")
        self.relative = relative
        if curvature not in ("gauss_newton", "hessian"):
            raise UsageError(f"LBFGS: curvature must be 'gauss_newton' or 'hessian', got {curvature!r}.")
        self.curvature: Curvature = curvature
        self.tolerance = positive(tolerance, "LBFGS: tolerance")

    def obstacles(self, problem: Problem) -> list[str]:
        """A derivative that the products lack."""
        return missing(problem, self.curvature)

    def solve(self, v: Vector, problem: Problem) -> Vector:
        """q; warns where it stopped at negative curvature."""
        norm = dot(v, v)
        if norm == 0:
            return v
        damping = damping_of(problem, v, self.curvature, self.damping, relative=self.relative)
        pairs: deque[tuple[Vector, Vector, Tensor]] = deque(maxlen=self.memory)
        q, residual = zeros_like(v), v
        for _ in range(self.steps):
            direction = two_loop(pairs, residual)
            bent = combine(curvature_product(problem, direction, self.curvature), damping, direction)
            along = dot(direction, bent)
            if along <= 0:
                warnings.warn(
                    "LBFGS: met negative curvature and stopped there; use curvature='gauss_newton' or more damping.", stacklevel=2
                )
                break
            length = dot(direction, residual) / along
            q, residual = combine(q, length, direction), combine(residual, -length, bent)
            if dot(residual, residual) <= self.tolerance**2 * norm:
                break
            pairs.append((direction, bent, along))
        return q

    def __repr__(self) -> str:
        return shown(self, "damping", "steps")


def two_loop(pairs: deque[tuple[Vector, Vector, Tensor]], gradient: Vector) -> Vector:
    """The L-BFGS inverse applied to a vector; pairs hold a direction s, its product y = H s, and s'y > 0, oldest first."""
    r, used = gradient, []
    for s, y, sy in reversed(pairs):
        a = dot(s, r) / sy
        r = combine(r, -a, y)
        used.append(a)
    if pairs:
        _, y, sy = pairs[-1]
        r = scaled(r, sy / dot(y, y))
    for (s, y, sy), a in zip(pairs, reversed(used), strict=True):
        r = combine(r, a - dot(y, r) / sy, s)
    return r
