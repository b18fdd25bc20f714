"""Means of what several nets answer."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from limbeck.functional.divergences import log_softmax

Combine = Literal["probability", "logit"]
"""Which mean: of the probabilities, or of the logits."""


def mean_of(logits: Sequence[Tensor], weights: Sequence[float], combine: Combine) -> Tensor:
    """The weighted mean of several logits [..., C], as logits.

    Args:
        logits: At least one.
        weights: Above 0, of sum 1.
        combine: `probability` or `logit`.
    """
    if combine == "logit":
        return torch.stack([weight * answer for weight, answer in zip(weights, logits, strict=True)]).sum(0)
    return torch.stack([log_softmax(a) + math.log(w) for w, a in zip(weights, logits, strict=True)]).logsumexp(0)
