"""Kronecker-factored curvature."""

from collections.abc import Mapping
from typing import final

import torch
from torch import Tensor

from limbeck.core.checks import whole
from limbeck.core.shown import shown
from limbeck.influence.curvature.capture import capture
from limbeck.influence.curvature.eigenbasis import Eigenbasis
from limbeck.influence.curvature.kronecker import Kronecker, estimate
from limbeck.influence.curvature.solver import Problem


@final
class KFAC(Eigenbasis):
    """q = (A (x) S + lambda I)^-1 v, layer by layer.

    Args:
        damping: lambda relative to each layer's mean eigenvalue, > 0.
        refresh: Steps between two estimates in training, >= 1.

    Reference: Martens, Grosse, 2015, arXiv:1503.05671, sec. 4; convolutions as in Grosse, Martens, 2016, arXiv:1602.01407.
    Differs from the papers: damping is exact in the eigenbasis instead of split over the two factors.

    >>> KFAC()
    KFAC(damping=0.1)
    """

    def __init__(self, damping: float = 0.1, *, refresh: int = 200) -> None:
        super().__init__(damping, "KFAC")
        self.refresh = whole(refresh, "KFAC: refresh")
        self._updated = 0

    def wants(self, step: int, most: int) -> int:
        """All, where the factors are missing or older than `refresh` steps."""
        return most if self._found is None or step - self._updated >= self.refresh else 0

    def update(self, problem: Problem, step: int | None = None) -> None:
        """Renew factors and eigenbasis."""
        self._found, self._updated = estimate(capture(problem)), step or 0

    def state(self) -> dict[str, Tensor]:
        """Eigenbasis, eigenvalues and when they were taken."""
        return {} if self._found is None else self._found.state() | {"updated": torch.tensor(self._updated)}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `state` gave."""
        self._found = Kronecker.from_state(state)
        self._updated = int(state.get("updated", torch.tensor(0)))

    def __repr__(self) -> str:
        return shown(self, "damping")
