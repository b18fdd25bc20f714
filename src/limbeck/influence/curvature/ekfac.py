"""Eigenvalue-corrected Kronecker factors: the default inverse."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import final

import torch
from torch import Tensor

from limbeck.core.checks import fraction, whole
from limbeck.core.shown import shown
from limbeck.influence.curvature.capture import Captured, Fisher, capture, check_fisher
from limbeck.influence.curvature.covered import Covered
from limbeck.influence.curvature.eigenbasis import Eigenbasis
from limbeck.influence.curvature.kronecker import Factors, Kronecker, corrected, factors
from limbeck.influence.curvature.solver import Problem


@final
class EKFAC(Eigenbasis):
    """q = U_S [(U_S' V U_A) / (Lambda + lambda)] U_A', Lambda the second moments of the gradient in the Kronecker eigenbasis.

    In training, factors and moments run along: the first estimate takes all samples that there are, a renewal a few, which
    count 1 - keep. A turn of the eigenbasis takes the moments with it. Without a step (a finished model) all is estimated anew.

    Args:
        damping: lambda relative to each layer's mean eigenvalue, > 0.
        statistics: Steps between two renewals of factors and moments in training, >= 1.
        basis: Steps after which a renewal turns the eigenbasis, >= 1.
        samples: Samples of a renewal, >= 1.
        keep: Share of the running means that a renewal keeps, in [0, 1].
        fisher: `true` draws labels from the model; `empirical` takes the gradients of the training loss as it is, for comparison.

    Reference: George et al., 2018, arXiv:1806.03884, alg. 1. Differs from the paper: labels are drawn from the model (true
    Fisher), damping is relative, a turn of the basis keeps the moments, gain and shift of a normalisation get a dense matrix,
    embeddings are layers of one-hot inputs, and what is in no such layer has one number per tensor.

    >>> EKFAC()
    EKFAC(damping=0.1)
    """

    def __init__(
        self,
        damping: float = 0.1,
        *,
        statistics: int = 50,
        basis: int = 200,
        samples: int = 16,
        keep: float = 0.9,
        fisher: Fisher = "true",
    ) -> None:
        super().__init__(damping, "EKFAC")
        self.statistics = whole(statistics, "EKFAC: statistics")
        self.basis = whole(basis, "EKFAC: basis")
        self.samples = whole(samples, "EKFAC: samples")
        self.keep = fraction(keep, "EKFAC: keep")
        self.fisher: Fisher = check_fisher(fisher, "EKFAC")
        self._running: Factors | None = None
        self._updated, self._turned = 0, 0

    def wants(self, step: int, most: int) -> int:
        """All at first, then a few every `statistics` steps."""
        if self._running is None:
            return most
        return min(self.samples, most) if step - self._updated >= self.statistics else 0

    def update(self, problem: Problem, step: int | None = None) -> None:
        """Estimate all, or renew what runs along and turn the eigenbasis where that is due."""
        if step is None or self._found is None or self._running is None:
            running = factors(self._capture(problem))
            self._found = corrected(running.decomposed(), self._capture(problem))
            self._running, self._updated, self._turned = None if step is None else running, step or 0, step or 0
            return
        seen = list(self._capture(problem))
        self._running = self._running.mixed(factors(seen, problem.generator), self.keep)
        if step - self._turned >= self.basis:
            self._found, self._turned = self._found.turned(self._running), step
        fresh = replace(corrected(self._found, seen), others=self._running.others)
        self._found, self._updated = self._found.mixed(fresh, self.keep), step

    def _capture(self, problem: Problem) -> Iterator[tuple[dict[str, Covered], Captured]]:
        return capture(problem, self.fisher)

    def state(self) -> dict[str, Tensor]:
        """Eigenbasis, moments, the factors that run along, and when they were taken."""
        times = {"updated": torch.tensor(self._updated), "turned": torch.tensor(self._turned)}
        running = {} if self._running is None else self._running.state()
        return {} if self._found is None else self._found.state() | running | times

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `state` gave."""
        self._found = Kronecker.from_state(state)
        self._running = None if self._found is None else Factors.from_state(state, self._found.others)
        self._updated, self._turned = (int(state.get(key, torch.tensor(0))) for key in ("updated", "turned"))

    def __repr__(self) -> str:
        return shown(self, "damping")
