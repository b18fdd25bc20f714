"""How bad a mean loss can become when the data are weighted otherwise: the worst case over a chi-square ball."""

import math

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from limbeck.core.checks import not_negative
from limbeck.core.errors import ShapeError, UsageError


def worst_case_loss(losses: Tensor, delta: float) -> float:
    """sup_Q E_Q[loss] over all Q with E_P[(1 - dQ/dP)^2] / 2 <= delta, P the losses as given, each with weight 1/N.

    Computed by its dual, min over eta of sqrt(2 delta + 1) E_P[(loss - eta)_+^2]^(1/2) + eta: convex in the one number eta,
    and equal to the supremum. It is the mean at delta = 0, mean + sqrt(2 delta) std while no weight reaches 0, never falls as
    delta grows, and is the largest loss from delta = (N - 1) / 2 on, where all weight may lie on one sample.

    Args:
        losses: One per sample, finite.
        delta: Size of the ball, >= 0.

    Shapes: losses [N], N >= 1.

    Raises:
        ShapeError: The losses are not a row of at least one.
        UsageError: A loss is NaN or infinite, or delta is below 0.

    Reference: KD-AIF, arXiv:2501.02705, theorem 2; the dual is that of Duchi, Namkoong, 2018, arXiv:1810.08750 (k = 2).

    >>> worst_case_loss(torch.tensor([1.0, 2.0, 6.0]), 0.0)
    3.0
    """
    if losses.dim() != 1 or not len(losses):
        raise ShapeError(f"worst_case_loss: expected one loss per sample, [N], got {list(losses.shape)}.")
    if not bool(torch.isfinite(losses).all()):
        raise UsageError("worst_case_loss: every loss must be a finite number, but some are NaN or infinite; leave those out.")
    not_negative(delta, "worst_case_loss: delta")
    values = losses.detach().double().cpu().numpy()
    smallest, largest = float(values.min()), float(values.max())
    if delta >= (len(values) - 1) / 2 or largest == smallest:
        return largest
    z = (values - largest) / (largest - smallest)  # in [-1, 0]
    return _dual(z, delta) * (largest - smallest) + largest


def _dual(z: np.ndarray, delta: float) -> float:
    """The minimum over eta, for losses from -1 to 0."""
    reach = math.sqrt(2 * delta)
    if z.std() >= reach * (z.mean() + 1):  # eta lies below every loss, no weight is 0, and the minimum is known
        return min(float(z.mean() + reach * z.std()), 0.0)

    def upper(eta: float) -> float:
        return math.sqrt(2 * delta + 1) * math.sqrt(float((np.maximum(z - eta, 0) ** 2).mean())) + eta

    found = minimize_scalar(upper, bounds=(-1.0, 0.0), method="bounded", options={"xatol": 1e-12})
    return float(min(max(found.fun, z.mean()), 0.0))
