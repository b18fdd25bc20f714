"""Eigenvalue-corrected Kronecker factors: the default inverse."""

from collections.abc import Mapping
from typing import final

import torch
from torch import Tensor

from limbeck.core.checks import positive, whole
from limbeck.influence.curvature.capture import blocks, capture
from limbeck.influence.curvature.kronecker import Kronecker, corrected, estimate
from limbeck.influence.curvature.solver import Gradients, Problem, Solver
from limbeck.influence.vectors import Vector


@final
class EKFAC(Solver):
    """q = U_S [(U_S' V U_A) / (Lambda + lambda)] U_A', Lambda the second moments of the gradient in the Kronecker eigenbasis.

    Args:
        damping: lambda relative to each layer's mean eigenvalue, > 0.
        statistics: Steps between two renewals of the second moments in training, >= 1.
        basis: Steps between two renewals of the eigenbasis in training, >= 1.

    Reference: George et al., 2018, arXiv:1806.03884, alg. 1. Differs from the paper: labels are drawn from the model (true
    Fisher), damping is relative, and parameters outside linear and convolution layers get one number per tensor.

    >>> EKFAC()
    EKFAC(damping=0.1)
    """

    def __init__(self, damping: float = 0.1, *, statistics: int = 50, basis: int = 200) -> None:
        self.damping = positive(damping, "EKFAC: damping")
        self.statistics = whole(statistics, "EKFAC: statistics")
        self.basis = whole(basis, "EKFAC: basis")
        self._found: Kronecker | None = None
        self._updated, self._turned = 0, 0

    def due(self, step: int) -> bool:
        """Whether the moments are missing or older than `statistics` steps, or the basis older than `basis`."""
        return self._found is None or step - self._updated >= self.statistics or step - self._turned >= self.basis

    def update(self, problem: Problem, step: int | None = None) -> None:
        """Renew the moments, and the eigenbasis where it is due."""
        if self._found is None or step is None or step - self._turned >= self.basis:
            self._found, self._turned = estimate(capture(problem)), step or 0
        self._found, self._updated = corrected(self._found, capture(problem)), step or 0

    def solve(self, v: Vector, problem: Problem) -> Vector:
        """The damped inverse applied to v."""
        if self._found is None:
            self.update(problem)
        assert self._found is not None
        return self._found.solve(v, blocks(problem.model), self.damping)

    def solve_many(self, rows: Vector, problem: Problem) -> Vector:
        """The damped inverse applied to each."""
        if self._found is None:
            self.update(problem)
        assert self._found is not None
        return self._found.solve_many(rows, blocks(problem.model), self.damping)

    def energies(self, gradients: Gradients, problem: Problem) -> Tensor:
        """Every sample's g' (F + damping)^-1 g, as squares in the eigenbasis."""
        if self._found is None:
            self.update(problem)
        assert self._found is not None
        return self._found.energies(gradients, blocks(problem.model), self.damping)

    def state(self) -> dict[str, Tensor]:
        """Eigenbasis, moments and when they were taken."""
        times = {"updated": torch.tensor(self._updated), "turned": torch.tensor(self._turned)}
        return {} if self._found is None else self._found.state() | times

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `state` gave."""
        self._found = Kronecker.from_state(state)
        self._updated, self._turned = (int(state.get(key, torch.tensor(0))) for key in ("updated", "turned"))

    def __repr__(self) -> str:
        return f"EKFAC(damping={self.damping:g})"
