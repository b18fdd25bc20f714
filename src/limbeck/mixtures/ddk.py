"""The domains in which the student lags behind the teacher are drawn more often (DDK, 2024)."""

import math
from collections.abc import Mapping
from typing import final

import torch
from torch import Tensor

from limbeck.core.checks import fraction, whole
from limbeck.core.errors import UsageError
from limbeck.core.shown import shown
from limbeck.mixtures.mixture import DomainLosses, Mixture

MOST = 20.0
"""The largest ratio of perplexities that counts: its exponential is taken, which a larger one would saturate."""


def lag(losses: DomainLosses) -> Tensor:
    """The student's perplexity over the teacher's on each domain, [G], at most `MOST`."""
    return (losses.student - losses.teacher).clamp(max=math.log(MOST)).exp()


def next_factors(factors: Tensor, lags: Tensor, a: float) -> Tensor:
    """The next r, [G] of sum 1: a psi / sum(psi) + (1 - a) / G with psi = r exp(lag), so that each is at least (1 - a) / G."""
    psi = (factors.log() + lags).softmax(0)
    return a * psi + (1 - a) / len(factors)


@final
class DDK(Mixture):
    """Distilling domain knowledge: domain i is drawn with probability r_i, the larger the further the student lags there.

    With l_S and l_T the perplexities on held-out samples of each of G domains (here: on the query set), at first
    r_i = exp(l_S,i / l_T,i) / sum_j exp(l_S,j / l_T,j), and after every `every` steps

        psi_i = r_i exp(l_S,i / l_T,i),    r_i = a psi_i / sum_j psi_j + (1 - a) / G.

    The loss of the paper is CE() + KD(T=1) * 0.2: an objective like any other.

    Args:
        a: How much of the next shares the lag decides, in [0, 1]; 0 draws all domains alike, 1 bounds no share from below.
        every: Steps from one renewal to the next, >= 1.
        uniform_first: Draw all domains alike until the first renewal.

    Raises:
        UsageError: An argument is out of its range; at the start, there is one domain only.

    Reference: Liu et al., 2024, arXiv:2407.16154, sec. 3 and algorithm 1. Differs from the paper: the first samples are drawn
    by the first r, the listing draws them at random (`uniform_first`); a ratio counts up to 20; perplexities are those on the
    query set, which every arm of a run has.

    >>> DDK(every=50)
    DDK(a=0.5, every=50)
    """

    def __init__(self, a: float = 0.5, every: int = 1000, *, uniform_first: bool = False) -> None:
        self.a = fraction(a, "DDK: a")
        self.every = whole(every, "DDK: every")
        self.uniform_first = uniform_first

    def start(self, sizes: Tensor, losses: DomainLosses | None) -> Tensor:
        """The first shares, [G].

        Raises:
            UsageError: There is one domain only.
        """
        if len(sizes) < 2:
            raise UsageError(f"DDK: needs at least two domains to choose from, but the data has {len(sizes)}.")
        assert losses is not None
        self.lags = lag(losses)
        self.factors = self.lags.softmax(0)
        return torch.full_like(self.factors, 1 / len(sizes)) if self.uniform_first else self.factors

    def renew(self, losses: DomainLosses | None) -> Tensor:
        """The next shares, [G]."""
        assert losses is not None
        self.lags = lag(losses)
        self.factors = next_factors(self.factors, self.lags, self.a)
        return self.factors

    def figures(self) -> dict[str, Tensor]:
        """The ratios of the perplexities."""
        return {"lag": self.lags}

    def state(self) -> dict[str, Tensor]:
        """The factors and the last ratios."""
        return {"factors": self.factors, "lags": self.lags}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `state` gave."""
        self.factors, self.lags = state["factors"], state["lags"]

    def __repr__(self) -> str:
        return shown(self, "a", "every")
