"""Distributions over many classes, lumped to the k most probable and all others. Knows nothing of batches or masks."""

import torch
from torch import Tensor

from limbeck.core.topk import TopK
from limbeck.functional.divergences import heated, log_softmax


def rest_of(log_p: Tensor, ids: Tensor) -> Tensor:
    """The log of the mass of all classes but these, log-probabilities [..., V], int64 [..., k] -> [...]; -inf where k = V.

    Of logits it is the one logit that stands for all others.

    Taken as a sum over the others and not as 1 - sum over these: that difference has no digits left where the k classes hold
    nearly all, which is the usual case.
    """
    return log_p.scatter(-1, ids, -torch.inf).logsumexp(-1)


def top_k(logits: Tensor, k: int, T: float = 1.0) -> TopK:
    """The k most probable classes of softmax(logits / T) and the others' mass, in at least float32.

    Shapes: logits [B, V] or [B, L, V], k at most V -> ids and log-probabilities [..., k], tail [...].
    """
    log_p = log_softmax(logits, T)
    log_probs, ids = log_p.topk(k, dim=-1)
    return TopK(ids, log_probs, rest_of(log_p, ids), T, logits.shape[-1])


def fewer(known: TopK, k: int) -> TopK:
    """The same distributions, known in only the k most probable classes, k at most `known.k`."""
    if k == known.k:
        return known
    kept, places = known.log_probs.topk(k, dim=-1)
    others = torch.cat([known.log_probs.scatter(-1, places, -torch.inf), known.tail.unsqueeze(-1)], -1)
    return TopK(known.ids.gather(-1, places), kept, others.logsumexp(-1), known.T, known.classes)


def lumped(logits: Tensor, known: TopK) -> tuple[Tensor, Tensor]:
    """Log-probabilities of two distributions over the k classes and the rest, of `known` and of softmax(logits / known.T).

    Where k = V there is no rest, and both are over the V classes alone.

    Shapes: logits [..., V], ids [..., k] -> two of [..., k + 1], or of [..., V].
    """
    logits = heated(logits, known.T)
    own, theirs = logits.gather(-1, known.ids), known.log_probs.to(logits.dtype)
    if known.k == logits.shape[-1]:
        return theirs, own.log_softmax(-1)
    # Of the whole vocabulary one sum is taken, that of the rest: the k + 1 logits that it leaves are few.
    few = torch.cat([own, rest_of(logits, known.ids).unsqueeze(-1)], -1)
    return torch.cat([theirs, known.tail.to(logits.dtype).unsqueeze(-1)], -1), few.log_softmax(-1)
