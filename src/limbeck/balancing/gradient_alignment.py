"""One term's gradient is protected from the others' (DHKD, 2024)."""

from typing import final

import torch
from torch import Tensor

from limbeck.balancing.balancer import Balancer
from limbeck.core.errors import UsageError, nearest
from limbeck.core.objective import Objective


@final
class GradientAlignment(Balancer):
    """A gradient g_k that goes against the protected g_p loses its part along g_p: g_k - min(0, <g_p, g_k>) / |g_p|^2 g_p.

    Summed up, that is a factor 1 + sum_k max(0, -<g_p, g_k>) / |g_p|^2 on the protected term and 1 on the others.

    Args:
        protect: The term whose gradient is never reduced, by its name in the objective, as `CE` or `KD#2`.

    Raises:
        UsageError: The objective has no such term, or no other.

    Reference: Yang et al., 2024, arXiv:2411.08937, gradient alignment. Differs from the paper: no; as in its released code the
    parameters that only the protected term reaches (its classifier) get the larger factor too.

    >>> GradientAlignment()
    GradientAlignment(protect='CE')
    """

    level = "all"

    def __init__(self, protect: str = "CE") -> None:
        self.protect = protect
        self._factor = 1.0

    def start(self, objective: Objective) -> Tensor:
        """Find the protected term; factors 1.

        Raises:
            UsageError: There is no such term, or no other.
        """
        names = objective.names
        if self.protect not in names or len(names) == 1:
            near = nearest(self.protect, set(names) - {self.protect})
            raise UsageError(
                f"GradientAlignment: protects '{self.protect}' from other terms, but the objective is {objective!r}{near}"
            )
        self.place = names.index(self.protect)
        return torch.ones(len(names))

    def factors(self, losses: Tensor, gramian: Tensor | None) -> Tensor:
        """The factors, [K]."""
        found = torch.ones(len(losses), dtype=torch.float64)
        if gramian is not None and gramian[self.place, self.place] > 0:
            row = gramian[self.place].cpu()
            found[self.place] += row.clamp(max=0).neg().sum() / row[self.place]
        self._factor = float(found[self.place])
        return found.to(losses.device)

    def figures(self) -> dict[str, float]:
        """The protected term's factor."""
        return {f"factor_{self.protect}": self._factor}

    def __repr__(self) -> str:
        return f"GradientAlignment(protect={self.protect!r})"
