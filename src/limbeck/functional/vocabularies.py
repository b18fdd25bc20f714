"""Distributions over vocabularies that differ. Knows nothing of batches or of tokenizers."""

import torch
import torch.nn.functional as F
from torch import Tensor


def sorted_distance(p: Tensor, q: Tensor) -> Tensor:
    """Sum of |p - q|, each in descending order and the shorter filled up with zeros: [..., C], [..., C'] -> [...]."""
    one, other = (part.sort(-1, descending=True).values for part in (p, q))
    missing = one.shape[-1] - other.shape[-1]
    return (F.pad(one, (0, max(-missing, 0))) - F.pad(other, (0, max(missing, 0)))).abs().sum(-1)


def counted_first(rows: Tensor, mask: Tensor, length: int) -> Tensor:
    """The counted rows of every sample in their order, then the others, cut to a length: [B, L, V], [B, L] -> [B, length, V]."""
    order = mask.logical_not().to(rows.dtype).argsort(dim=1, stable=True)[:, :length]
    return rows.gather(1, order.unsqueeze(-1).expand(-1, -1, rows.shape[-1]))


def merged(log_p: Tensor, groups: Tensor, targets: Tensor, count: int) -> Tensor:
    """The distribution over what ends each group of tokens: log p of its last token plus the log p of those observed before it.

    Shapes: log-probabilities [B, L, V]; groups [B, L] int64, rising by one from 0, -1 for none; targets [B, L], the observed
    tokens -> [B, count, V]. Groups that a sample does not have hold anything.
    """
    within = groups >= 0
    observed = log_p.gather(-1, targets.where(within, 0).unsqueeze(-1)).squeeze(-1).where(within, 0)
    places = torch.arange(groups.shape[1], device=groups.device).expand_as(groups)
    slot = groups.where(within, count)  # what belongs to no group goes where it is cut off
    last = torch.zeros_like(groups[:, :1]).repeat(1, count + 1).scatter_reduce(1, slot, places, "amax")[:, :count]
    total = observed.new_zeros(len(groups), count + 1).scatter_add(1, slot, observed)[:, :count]
    before = total - observed.gather(1, last)
    return log_p.gather(1, last.unsqueeze(-1).expand(-1, -1, log_p.shape[-1])) + before.unsqueeze(-1)
