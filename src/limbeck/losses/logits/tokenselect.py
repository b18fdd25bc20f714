"""Another term on a few tokens: those that open a response, or those that the student is least sure of (Kim and Baek, 2026)."""

from dataclasses import replace
from typing import Literal, final, get_args

import torch
from torch import Tensor

from limbeck.core.checks import one_of, proper_fraction
from limbeck.core.outputs import Views
from limbeck.core.term import Moment, Term
from limbeck.functional.divergences import entropy, log_softmax
from limbeck.losses.logits.kd import KD
from limbeck.losses.sides import logits_only, takes_over, tokens_only

By = Literal["opener", "uncertain"]


@final
class TokenSelect(Term):
    """Another term on a part of each sample's tokens, chosen by the entropies H of the student's distributions, without gradient.

    "opener": the first m tokens, m the smallest number with sum of H over the first m >= share of the sum over all. "uncertain":
    the share of the tokens with the largest H, rounded up. A sample with a counted token keeps at least one.

    Args:
        term: Any term on logits of tokens; KD(T=1) where none is named.
        by: Which tokens.
        share: Of the entropy, or of the tokens, strictly between 0 and 1.

    Shapes: logits [B, L, V] with batch.mask [B, L] -> [B].

    Raises:
        ShapeError: The logits are not those of tokens.
        UsageError: An argument is out of range, or the term has parts of its own.

    Reference: Kim, Baek, 2026, TSD-KD, arXiv:2603.13260, sec. 3. Differs from the paper: no. The authors' code keeps the upper
    90 % where the text says 10 %, and takes one opener for a whole batch; this follows the text.

    >>> TokenSelect(by="uncertain")
    TokenSelect(KD(T=1), by='uncertain', share=0.1)
    """

    says = ("term", "by", "share")

    def __init__(self, term: Term | None = None, by: By = "opener", share: float = 0.1) -> None:
        super().__init__()
        self.term = inner = logits_only(KD(T=1) if term is None else term, "TokenSelect")
        self.by = one_of(by, get_args(By), "TokenSelect: by")
        self.share = proper_fraction(share, "TokenSelect: share")
        takes_over(self, inner)

    def at(self, moment: Moment) -> None:
        """Tell the inner term."""
        self.term.at(moment)

    def forward(self, views: Views) -> Tensor:
        """One value per sample, [B]."""
        logits, mask = views.student.logits, views.batch.mask
        tokens_only(logits, "TokenSelect")
        counted = torch.ones_like(logits[..., 0], dtype=torch.bool) if mask is None else mask
        unsure = entropy(log_softmax(logits.detach())).double()
        choose = opener if self.by == "opener" else most
        value: Tensor = self.term(replace(views, batch=replace(views.batch, mask=choose(unsure, counted, self.share))))
        return value


def opener(values: Tensor, mask: Tensor, share: float) -> Tensor:
    """The counted tokens before whose own the values add up to less than a share of all: [B, L], [B, L] bool -> [B, L] bool."""
    values = values.where(mask, 0)
    before = values.cumsum(1) - values
    wanted = (share - 1e-9) * values.sum(1, keepdim=True)  # sums that meet the share but for rounding are enough
    return mask & ((before < wanted) | (mask.cumsum(1) == 1))


def most(values: Tensor, mask: Tensor, share: float) -> Tensor:
    """The share of the counted tokens with the largest values, rounded up: [B, L], [B, L] bool -> [B, L] bool."""
    order = values.masked_fill(~mask, -torch.inf).argsort(dim=1, descending=True, stable=True)
    wanted = (share * mask.sum(1, keepdim=True) - 1e-9).ceil()
    ranks = torch.empty_like(order).scatter_(1, order, torch.arange(order.shape[1], device=order.device).expand_as(order))
    return mask & (ranks < wanted)
