"""The inverse by a Neumann series on curvature-vector products."""

import warnings
from typing import final

from limbeck.core.checks import not_negative, positive, whole
from limbeck.core.errors import RunError, UsageError
from limbeck.core.shown import shown
from limbeck.influence.curvature.products import Curvature, curvature_product, damping_of, largest_eigenvalue, missing
from limbeck.influence.curvature.solver import Problem, Solver
from limbeck.influence.vectors import Vector, combine, dot, zeros_like


@final
class LiSSA(Solver):
    """q = h / sigma with h <- v + h - (H + lambda I) h / sigma, repeated and averaged; no matrix is ever formed.

    Converges where sigma is above half the largest eigenvalue of H + lambda I, at the rate 1 - lambda_min / sigma: slow where
    damping is small. ConjugateGradient needs fewer products; this is the literature's baseline, and takes samples by pieces.

    Args:
        damping: lambda relative to v'Hv / v'v, >= 0; or lambda itself where relative is false.
        steps: Products of each repetition, >= 1.
        relative: Whether damping is relative.
        curvature: `gauss_newton`, or `hessian`.
        scale: sigma, > 0; None takes 1.1 times the largest eigenvalue, found by power iteration.
        batch: Samples drawn for each product, >= 1; None takes all.
        repeats: Repetitions that are averaged, >= 1; more than one makes sense with `batch` alone.

    Raises:
        UsageError: An argument is out of its range.

    Reference: Agarwal, Bullins, Hazan, 2017, arXiv:1602.03943, alg. 1; Koh, Liang, 2017, arXiv:1703.04730, sec. 3. Differs from
    the papers: the division by sigma at the end is never left out, and sigma is measured.

    >>> LiSSA(steps=50)
    LiSSA(damping=0.02, steps=50)
    """

    def __init__(
        self,
        damping: float = 0.02,
        steps: int = 200,
        *,
        relative: bool = True,
        curvature: Curvature = "gauss_newton",
        scale: float | None = None,
        batch: int | None = None,
        repeats: int = 1,
    ) -> None:
        self.damping = not_negative(damping, "LiSSA: damping")
        self.steps = whole(steps, "LiSSA: steps")
        self.relative = relative
        if curvature not in ("gauss_newton", "hessian"):
            raise UsageError(f"LiSSA: curvature must be 'gauss_newton' or 'hessian', got {curvature!r}.")
        self.curvature: Curvature = curvature
        self.scale = None if scale is None else positive(scale, "LiSSA: scale")
        self.batch = None if batch is None else whole(batch, "LiSSA: batch")
        self.repeats = whole(repeats, "LiSSA: repeats")

    def obstacles(self, problem: Problem) -> list[str]:
        """A derivative that the products lack."""
        return missing(problem, self.curvature)

    def solve(self, v: Vector, problem: Problem) -> Vector:
        """q; warns where the series had not come to rest.

        Raises:
            RunError: The series grew without bound.
        """
        if dot(v, v) == 0:
            return v
        damping = damping_of(problem, v, self.curvature, self.damping, relative=self.relative)
        top = 1.1 * (largest_eigenvalue(problem, v, self.curvature) + damping)
        scale = self.scale or top or 1.0
        total = zeros_like(v)
        for _ in range(self.repeats):
            total = combine(total, 1 / (self.repeats * scale), self._series(v, problem, damping, scale))
        return total

    def _series(self, v: Vector, problem: Problem, damping: float, scale: float) -> Vector:
        h, bound = v, 1e8 * float(dot(v, v)) ** 0.5
        for number in range(self.steps):
            one = problem if self.batch is None else problem.drawn(self.batch)
            bent = combine(curvature_product(one, h, self.curvature), damping, h)
            change = combine(v, -1 / scale, bent)
            h = combine(h, 1.0, change)
            size = float(dot(h, h)) ** 0.5
            if not size < bound:
                raise RunError(
                    f"LiSSA: the series grew without bound after {number + 1} products; use a larger scale or damping."
                )
        left = float(dot(change, change)) ** 0.5 / float(dot(v, v)) ** 0.5
        if self.batch is None and left > 0.1:
            warnings.warn(
                f"LiSSA: {self.steps} products leave {left:.0%} of the residual; use more steps or more damping.",
                stacklevel=3,
            )
        return h

    def __repr__(self) -> str:
        return shown(self, "damping", "steps")
