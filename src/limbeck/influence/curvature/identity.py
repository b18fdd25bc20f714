"""No curvature: the plain gradient product."""

from typing import final

import torch
from torch import Tensor

from limbeck.influence.curvature.solver import Gradients, Problem, Solver
from limbeck.influence.vectors import Vector


@final
class Identity(Solver):
    """q = v. eta * phi_i is then, to first order, the change of the query loss by one SGD step of size eta on sample i.

    Reference: Pruthi et al., 2020 (TracIn), arXiv:2002.08484, sec. 3. Differs from the paper: one checkpoint, no sum.

    >>> Identity()
    Identity()
    """

    def solve(self, v: Vector, problem: Problem) -> Vector:
        """The gradient itself."""
        return v

    def solve_many(self, rows: Vector, problem: Problem) -> Vector:
        """The gradients themselves."""
        return rows

    def energies(self, gradients: Gradients, problem: Problem) -> Tensor:
        """Every sample's squared norm."""
        norms = [torch.linalg.vector_norm(part.reshape(len(part), -1), dim=1) for part in gradients.whole().values()]
        return torch.stack(norms).square().sum(0)

    def __repr__(self) -> str:
        return "Identity()"
