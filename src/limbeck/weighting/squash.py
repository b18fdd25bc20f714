"""From scores to weights: w = 2 / (1 + exp(gain z)) with z the normalised score. Pure functions, [B] -> [B].

The score has no natural scale: raw phi is far too small in one run and saturates in the next. So it is divided by a measure
of its spread first. Modes that only divide keep phi = 0 at w = 1, which theorem 1 of the paper needs; those that shift put
w = 1 at the average sample and suit early training, where nearly every sample helps.
"""

from typing import Literal, get_args

import torch
from torch import Tensor

from limbeck.core.errors import UsageError, nearest

Normalise = Literal["none", "std", "rms", "median", "zscore", "mad", "center", "range"]


def check_normalise(mode: str, who: str, *more: str) -> Normalise:
    """The mode when there is one of that name.

    Args:
        mode: Its name.
        who: For the error.
        more: Other words that would have been right there, for the error.

    Raises:
        UsageError: There is none.
    """
    for known in get_args(Normalise):
        if mode == known:
            choice: Normalise = known
            return choice
    choices = (*more, *get_args(Normalise))
    raise UsageError(f"{who}: normalise must be one of {', '.join(choices)}, got {mode!r}{nearest(str(mode), choices)}")


def normalise(phi: Tensor, mode: Normalise) -> Tensor:
    """Scores on a common scale.

    `none` phi · `std` phi / std · `rms` phi / root mean square · `median` phi / median|phi| · `zscore` (phi - mean) / std ·
    `mad` (phi - median) / (1.4826 median|phi - median|) · `center` (phi - median) / std · `range` 10 phi / (max - min).
    Where the scale is 0 (all scores equal but for rounding, or all 0) every z is 0. Min-max scaling is not offered: it moves
    phi = 0 and lets two outliers set all weights (docs/decisions/0003).

    Reference: KD-AIF, arXiv:2501.02705 leaves the normalisation open; `range` is that of UIDS, arXiv:1912.01321.
    """
    if mode == "none":
        return phi
    limits = torch.finfo(phi.dtype)
    phi = phi / phi.abs().max().clamp(min=limits.tiny)  # no square of a very small or very large score is lost
    middle = phi.mean() if mode == "zscore" else phi.median() if mode in ("mad", "center") else torch.zeros_like(phi.mean())
    shifted = phi - middle
    spread = {
        "std": lambda: phi.std(correction=0),
        "zscore": lambda: phi.std(correction=0),
        "center": lambda: phi.std(correction=0),
        "rms": lambda: phi.square().mean().sqrt(),
        "median": lambda: phi.abs().median(),
        "mad": lambda: 1.4826 * shifted.abs().median(),
        "range": lambda: (phi.max() - phi.min()) / 10,
    }[mode]()
    least = 16 * limits.eps if mode in ("std", "zscore", "center") else limits.tiny  # equal numbers have a std of rounding
    return torch.where(spread > least, shifted / spread.clamp(min=limits.tiny), torch.zeros_like(phi))


def squash(z: Tensor, gain: float = 1.0, clamp: float = 4.0) -> Tensor:
    """2 / (1 + exp(gain z)) with gain z held within +-clamp; in (0, 2), 1 at z = 0, strictly decreasing inside the clamp.

    Reference: KD-AIF, arXiv:2501.02705. Differs from the paper: the gain and the clamp, which bounds how far any one sample
    can be switched off (at the default of 4: to 0.036).
    """
    return 2 * torch.sigmoid(-(gain * z).clamp(-clamp, clamp))


def mean_one(weights: Tensor, limit: float = 2.0) -> Tensor:
    """Weights scaled towards mean 1 by a factor within [1 / limit, limit], so that the step's size stays the user's.

    Without the bound one sample may take the whole step.
    """
    return weights * (1 / weights.mean()).clamp(1 / limit, limit)


def effective_sample_size(weights: Tensor) -> Tensor:
    """(sum w)^2 / sum w^2, in [1, B]: B for equal weights (Kish, 1965). A scalar; 0 where all weights are 0."""
    return weights.sum().square() / weights.square().sum().clamp(min=torch.finfo(weights.dtype).tiny)


def saturated(z: Tensor, gain: float, clamp: float) -> Tensor:
    """The share of scores that the clamp holds, a scalar in [0, 1]."""
    return ((gain * z).abs() >= clamp).to(z.dtype).mean()
