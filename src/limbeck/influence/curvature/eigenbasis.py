"""What K-FAC and EK-FAC share: an inverse that is diagonal in a basis of Kronecker products, layer by layer."""

from torch import Tensor

from limbeck.core.checks import positive
from limbeck.influence.curvature.covered import blocks
from limbeck.influence.curvature.kronecker import Kronecker
from limbeck.influence.curvature.solver import Gradients, Problem, Solver
from limbeck.influence.vectors import Vector


class Eigenbasis(Solver):
    """Applies what `update` leaves in `_found`; where nobody has asked for an update, the first to need it does.

    Args:
        damping: lambda relative to each layer's mean eigenvalue, > 0.
        who: The solver's name, for messages.
    """

    def __init__(self, damping: float, who: str) -> None:
        self.damping = positive(damping, f"{who}: damping")
        self._found: Kronecker | None = None

    def solve(self, v: Vector, problem: Problem) -> Vector:
        """The damped inverse applied to v."""
        return self._ready(problem).solve(v, blocks(problem.model), self.damping)

    def solve_many(self, rows: Vector, problem: Problem) -> Vector:
        """The damped inverse applied to each."""
        return self._ready(problem).solve_many(rows, blocks(problem.model), self.damping)

    def energies(self, gradients: Gradients, problem: Problem) -> Tensor:
        """Every sample's g' (F + damping)^-1 g, as squares in the eigenbasis."""
        return self._ready(problem).energies(gradients, blocks(problem.model), self.damping)

    def _ready(self, problem: Problem) -> Kronecker:
        if self._found is None:
            self.update(problem)
        assert self._found is not None
        return self._found
