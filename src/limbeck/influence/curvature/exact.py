"""The dense inverse, for small models: the oracle of all others."""

import warnings
from collections.abc import Mapping
from typing import final

import torch
from torch import Tensor

from limbeck.core.checks import not_negative, whole
from limbeck.core.errors import UnsupportedModelError, UsageError
from limbeck.core.shown import shown
from limbeck.influence.curvature.products import Curvature, dense, missing
from limbeck.influence.curvature.solver import Problem, Solver
from limbeck.influence.vectors import Vector, flatten, trainable, unflatten


@final
class Exact(Solver):
    """q = (H + lambda I)^-1 v by factorising the dense matrix. Cost: P curvature products and P^3 operations.

    Args:
        damping: lambda relative to the mean eigenvalue of H, >= 0; or lambda itself where relative is false.
        relative: Whether damping is relative.
        curvature: `gauss_newton` or `hessian`.
        refresh: Steps between two factorisations in training, >= 1.

    Raises:
        UnsupportedModelError: The model has more than 5,000 trainable parameters.

    >>> Exact()
    Exact(damping=0.1)
    """

    LIMIT = 5_000

    def __init__(
        self, damping: float = 0.1, *, relative: bool = True, curvature: Curvature = "gauss_newton", refresh: int = 200
    ) -> None:
        self.damping = not_negative(damping, "Exact: damping")
        self.relative = relative
        if curvature not in ("gauss_newton", "hessian"):
            raise UsageError(f"Exact: curvature must be 'gauss_newton' or 'hessian', got {curvature!r}.")
        self.curvature: Curvature = curvature
        self.refresh = whole(refresh, "Exact: refresh")
        self._matrix: Tensor | None = None
        self._updated = 0

    def wants(self, step: int, most: int) -> int:
        """All, where the matrix is missing or older than `refresh` steps."""
        return most if self._matrix is None or step - self._updated >= self.refresh else 0

    def obstacles(self, problem: Problem) -> list[str]:
        """The model is too large, or lacks a derivative."""
        return [*self._too_large(problem), *missing(problem, self.curvature)]

    def _too_large(self, problem: Problem) -> list[str]:
        count = sum(part.numel() for part in trainable(problem.model).values())
        said = f"Exact: the model has {count} trainable parameters, more than {self.LIMIT}; use EKFAC() or ConjugateGradient()"
        return [said] if count > self.LIMIT else []

    def update(self, problem: Problem, step: int | None = None) -> None:
        """Build the damped dense matrix.

        Raises:
            UnsupportedModelError: The model is too large.
        """
        count = sum(part.numel() for part in trainable(problem.model).values())
        for said in self._too_large(problem):
            raise UnsupportedModelError(f"{said}.")
        matrix = dense(problem, self.curvature)
        level = matrix.diagonal().mean().clamp(min=0) if self.relative else 1.0
        if self.curvature == "hessian" and bool((torch.linalg.eigvalsh(matrix) < -1e-6 * matrix.abs().max()).any()):
            warnings.warn(
                "Exact: the Hessian has negative eigenvalues, so its inverse ranks samples badly; use curvature='gauss_newton'.",
                stacklevel=2,
            )
        self._matrix = matrix + self.damping * level * torch.eye(count).to(matrix)
        self._updated = step or 0

    def solve(self, v: Vector, problem: Problem) -> Vector:
        """Q by LU, which also serves an indefinite Hessian; without damping the smallest q, since H may be singular."""
        if self._matrix is None:
            self.update(problem)
        assert self._matrix is not None
        if self.damping == 0:
            return unflatten(torch.linalg.pinv(self._matrix, hermitian=True) @ flatten(v), v)
        return unflatten(torch.linalg.solve(self._matrix, flatten(v)), v)

    def solve_many(self, rows: Vector, problem: Problem) -> Vector:
        """One factorisation for all."""
        if self._matrix is None:
            self.update(problem)
        assert self._matrix is not None
        flat = torch.cat([part.flatten(1) for part in rows.values()], 1).T
        if self.damping == 0:
            solved = torch.linalg.pinv(self._matrix, hermitian=True) @ flat
        else:
            solved = torch.linalg.solve(self._matrix, flat)
        pieces = torch.split(solved.T, [part[0].numel() for part in rows.values()], dim=1)
        return {name: piece.reshape(part.shape) for (name, part), piece in zip(rows.items(), pieces, strict=True)}

    def state(self) -> dict[str, Tensor]:
        """The damped matrix."""
        return {} if self._matrix is None else {"matrix": self._matrix, "updated": torch.tensor(self._updated)}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `state` gave."""
        self._matrix = state.get("matrix")
        self._updated = int(state.get("updated", torch.tensor(0)))

    def __repr__(self) -> str:
        return shown(self, "damping")
