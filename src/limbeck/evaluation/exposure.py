"""How much of a canary a model has memorised: exposure, in bits (Carlini et al., 2019). Knows nothing of models or texts.

A canary is a phrase of a fixed form with a random fill that was put into the training data; its candidates are all fills, or a
sample of them, among them the canary where they are all.

Reference: Carlini et al., 2019, "The secret sharer", arXiv:1802.08232, sec. 4.
"""

import math

from scipy.integrate import quad
from scipy.stats import rankdata, skewnorm
from torch import Tensor

from limbeck.core.errors import ShapeError, UsageError
from limbeck.functional.divergences import cross_entropy

FEWEST = 100
"""Sampled candidates that a distribution is fitted to at least."""
SMALLEST = 1e-10
"""Below this a distribution function has lost its digits, and the tail is integrated instead."""


def candidate_losses(logits: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
    """-sum_t log p(fill_t) in nats, [R]: the log-perplexity of each candidate in Carlini's sense, low where it is known by heart.

    Shapes: logits [R, L, V], int64 labels [R, L], mask bool [R, L], true at the tokens of the fill.

    Raises:
        ShapeError: They do not fit together.
    """
    if logits.dim() != 3 or labels.shape != logits.shape[:2] or mask.shape != labels.shape:
        raise ShapeError(
            f"candidate_losses: expected logits [R, L, V], labels and mask [R, L], got {list(logits.shape)}, "
            f"{list(labels.shape)} and {list(mask.shape)}; give one label for each token."
        )
    return (cross_entropy(logits.double(), labels.where(mask, 0)) * mask).sum(1)


def exposure(losses: Tensor, canary: int) -> float:
    """Log2 |R| - log2 rank, in bits: log2 |R| for the least loss, 0 for the largest; about 1.44 in the mean without memory.

    Equal losses share the mean of their ranks. Perplexities will do as well: only the order counts.

    Args:
        losses: [R] of all candidates, the canary among them.
        canary: Its place.

    Raises:
        UsageError: There is no such place, or a loss is NaN.

    Reference: definition 5 of the paper. Differs: equal losses, of which it does not speak.
    """
    if losses.dim() != 1 or not 0 <= canary < len(losses) or bool(losses.isnan().any()):
        raise UsageError(
            f"exposure: expected losses [R] without NaN and a place below R, got {list(losses.shape)} and {canary}; give the "
            "loss of every candidate."
        )
    return math.log2(len(losses)) - math.log2(float(rankdata(losses.double().cpu().numpy())[canary]))


def extrapolated_exposure(loss: float, sampled: Tensor) -> float:
    """-log2 P(a candidate's loss <= the canary's), in bits, by a skew normal distribution fitted to sampled candidates.

    For fills too many to go over them all. The fit is the paper's; how well it holds far in the tail nobody can see.

    Args:
        loss: The canary's, as `candidate_losses` gives it: the fit is of log-perplexities.
        sampled: [N] of candidates drawn at random, N at least 100.

    Raises:
        UsageError: They are too few, all alike, or not finite.

    Reference: sec. 4.3 of the paper.
    """
    found = sampled.double().cpu().numpy()
    if sampled.dim() != 1 or len(found) < FEWEST or not math.isfinite(loss + float(found.sum())) or found.std() == 0:
        raise UsageError(
            f"extrapolated_exposure: expected finite losses of at least {FEWEST} different candidates, got "
            f"{list(sampled.shape)}; draw more."
        )
    law = skewnorm(*skewnorm.fit(found))
    below = float(law.cdf(loss))
    if below > SMALLEST:
        return -math.log2(below)
    height = float(law.logpdf(loss))
    mass, _ = quad(lambda back: math.exp(float(law.logpdf(loss - back)) - height), 0, math.inf)
    return -(height + math.log(mass)) / math.log(2)
