"""Likelihoods of rankings. Knows nothing of who ranks whom."""

from torch import Tensor


def place_losses(scores: Tensor) -> Tensor:
    """-log of the chance that each place goes to whom it went to, by Plackett and Luce: logsumexp of it and all later, less it.

    Shapes: scores in the order of the ranking [..., K] -> [..., K]; the last is 0.
    """
    return scores.flip(-1).logcumsumexp(-1).flip(-1) - scores
