"""Balancers of multi-task learning: from the Gramian to factors, most of them through the library torchjd.

The papers that take a mean over the K terms get the sum here, K times as much, so that a factor 1 is no change for all.
"""

from abc import abstractmethod
from collections.abc import Mapping
from types import ModuleType
from typing import cast, final

import torch
from scipy.optimize import nnls
from torch import Tensor

from limbeck.balancing.balancer import Balancer, Level
from limbeck.core.checks import not_negative
from limbeck.core.errors import UsageError
from limbeck.core.extras import optional
from limbeck.core.objective import Objective
from limbeck.core.shown import shown


class MultiTask(Balancer):
    """What the four share: the level, a Gramian of trace 1 to work on, and the factors in the log.

    Args:
        level: Whose gradients: those of the student's "logits", of its "last_layer", or of "all" of it.

    Raises:
        UsageError: The level is another one.
    """

    def __init__(self, level: Level = "all") -> None:
        if level not in ("logits", "last_layer", "all"):
            raise UsageError(f"{type(self).__name__}: level must be logits, last_layer or all, got {level!r}.")
        self.level = level
        self.found: dict[str, float] = {}

    @abstractmethod
    def weigh(self, gramian: Tensor) -> Tensor:
        """The factors, [K], for a Gramian of trace 1."""

    def start(self, objective: Objective) -> Tensor:
        """Factors 1."""
        self.names = objective.names
        return torch.ones(len(self.names))

    def factors(self, losses: Tensor, gramian: Tensor | None) -> Tensor:
        """The factors, [K]; 1 where there are no gradients."""
        size = 0.0 if gramian is None else float(gramian.trace())
        if gramian is None or not size > 0:
            return torch.ones_like(losses)
        found = self.weigh(gramian.cpu() / size)  # the solvers take what is below 1e-4 for nothing
        self.found = dict(zip(self.names, found.tolist(), strict=True))
        return found.to(losses.device)

    def figures(self) -> dict[str, float]:
        """The factors."""
        return {f"factor_{name}": factor for name, factor in self.found.items()}

    def __repr__(self) -> str:
        return shown(self, "c")


def torchjd(who: str) -> ModuleType:
    """The library's solvers.

    Raises:
        MissingExtraError: It is not installed.
    """
    return optional("torchjd.aggregation", "balance", who)


@final
class PCGrad(MultiTask):
    """Each gradient loses, one after the other, its part against every other gradient; the results are added up.

    Args:
        level: Whose gradients: those of the student's "logits", of its "last_layer", or of "all" of it.

    Raises:
        UsageError: The level is another one.
        MissingExtraError: torchjd is not installed.

    Reference: Yu et al., 2020, arXiv:2001.06782, algorithm 1. Differs from the paper: no. The random order, which matters with
    three terms or more, follows from the number of the step.

    >>> PCGrad()
    PCGrad()
    """

    def __init__(self, level: Level = "all") -> None:
        super().__init__(level)
        self.solve, self.count = torchjd("PCGrad").PCGradWeighting(), 0

    def weigh(self, gramian: Tensor) -> Tensor:
        """The factors, [K]."""
        with torch.random.fork_rng(devices=[]):  # torchjd shuffles by the generator that the student's dropout draws from
            torch.set_rng_state(torch.Generator().manual_seed(self.count).get_state())
            found = self.solve(gramian)
        self.count += 1
        return cast(Tensor, found)

    def state(self) -> dict[str, Tensor]:
        """The number of steps."""
        return {"count": torch.tensor(self.count)}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `state` gave."""
        self.count = int(state["count"])


@final
class MGDA(MultiTask):
    """K times the convex combination of the K gradients that has the least norm: no loss rises to first order.

    Args:
        level: Whose gradients: those of the student's "logits", of its "last_layer", or of "all" of it.

    Raises:
        UsageError: The level is another one.
        MissingExtraError: torchjd is not installed.

    Reference: Desideri, 2012, C. R. Math. 350; Sener, Koltun, 2018, arXiv:1810.04650, algorithm 2. Differs from the paper: the
    factors sum up to K and not to 1, so that with equal gradients they are 1.

    >>> MGDA(level="last_layer")
    MGDA(level='last_layer')
    """

    def __init__(self, level: Level = "all") -> None:
        super().__init__(level)
        self.solve = torchjd("MGDA").MGDAWeighting()

    def weigh(self, gramian: Tensor) -> Tensor:
        """The factors, [K]."""
        return cast(Tensor, len(gramian) * self.solve(gramian))


@final
class CAGrad(MultiTask):
    """The sum g of the gradients, moved by at most c |g| to where the loss that gains least gains most.

    Args:
        c: Radius as a share of |g|, >= 0; 0 changes nothing. Below 1 every stationary point is one of the sum.
        level: Whose gradients: those of the student's "logits", of its "last_layer", or of "all" of it.

    Raises:
        UsageError: c is below 0, or the level is another one.
        MissingExtraError: torchjd is not installed.

    Reference: Liu et al., 2021, arXiv:2110.14048, algorithm 1. Differs from the paper: the sum in place of the mean of the K
    gradients, and so K times its step.

    >>> CAGrad()
    CAGrad(c=0.4)
    """

    def __init__(self, c: float = 0.4, level: Level = "all") -> None:
        super().__init__(level)
        self.c = not_negative(c, "CAGrad: c")
        self.solve = torchjd("CAGrad").CAGradWeighting(c=self.c)

    def weigh(self, gramian: Tensor) -> Tensor:
        """The factors, [K]."""
        return cast(Tensor, len(gramian) * self.solve(gramian))


@final
class UPGrad(MultiTask):
    """Each gradient is projected onto the directions along which no loss rises; the projections are added up.

    The projection of g_k is sum_j (e_k + v)_j g_j with the v >= 0 that makes it shortest: a non-negative least-squares problem.

    Args:
        level: Whose gradients: those of the student's "logits", of its "last_layer", or of "all" of it.

    Raises:
        UsageError: The level is another one.

    Reference: Quinton, Rey, 2024, arXiv:2406.16232, sec. 3 and prop. 1. Differs from the paper: the sum in place of the mean of
    the K projections.

    >>> UPGrad()
    UPGrad()
    """

    def weigh(self, gramian: Tensor) -> Tensor:
        """The factors, [K]."""
        values, vectors = torch.linalg.eigh(gramian)
        root = values.clamp(min=0).sqrt().unsqueeze(1) * vectors.T  # root^T root is the Gramian
        pushes = [torch.from_numpy(nnls(root.numpy(), -column.numpy())[0]) for column in root.T]
        return 1 + torch.stack(pushes).sum(0)
