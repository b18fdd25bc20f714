"""Shares of the domains that stay."""

from collections.abc import Mapping, Sequence
from typing import final

import torch
from torch import Tensor

from limbeck.core.checks import positive
from limbeck.core.errors import UsageError
from limbeck.core.shown import said
from limbeck.mixtures.mixture import DomainLosses, Mixture


@final
class FixedShares(Mixture):
    """Every domain has its share of the samples that are drawn, from the first step to the last.

    Args:
        shares: One per domain, in the alphabetical order of their names, > 0; they are divided by their sum. None: equal ones.

    Raises:
        UsageError: A share is not above 0; at the start, there is not one for each domain.

    >>> FixedShares([3, 1])
    FixedShares([3, 1])
    """

    needs_losses = False

    def __init__(self, shares: Sequence[float] | None = None) -> None:
        self.shares = None if shares is None else [positive(share, "FixedShares: each share") for share in shares]

    def start(self, sizes: Tensor, losses: DomainLosses | None) -> Tensor:
        """The shares, [G].

        Raises:
            UsageError: There is not one for each domain.
        """
        given = [1.0] * len(sizes) if self.shares is None else self.shares
        if len(given) != len(sizes):
            raise UsageError(f"FixedShares: needs one share for each of the {len(sizes)} domains, got {len(given)}.")
        self.now = torch.tensor(given, dtype=torch.float64) / sum(given)
        return self.now

    def renew(self, losses: DomainLosses | None) -> Tensor:
        """The same shares."""
        return self.now

    def state(self) -> dict[str, Tensor]:
        """The shares."""
        return {"now": self.now}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `state` gave."""
        self.now = state["now"]

    def __repr__(self) -> str:
        return f"FixedShares({'' if self.shares is None else said(self.shares)})"
