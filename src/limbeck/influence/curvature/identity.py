"""No curvature: the plain gradient product."""

from typing import final

from limbeck.influence.curvature.solver import Problem, Solver
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

    def __repr__(self) -> str:
        return "Identity()"
