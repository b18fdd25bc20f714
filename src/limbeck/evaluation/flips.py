"""How well scores find flipped labels, where the truth is known. Higher score means looked at earlier."""

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from limbeck.core.errors import ShapeError, UsageError


def flip_auc(score: Tensor, flipped: Tensor) -> float | None:
    """Area under the ROC curve: how often a flipped sample scores above a clean one, a tie counting half.

    None where no sample or every sample is flipped: then nothing can be told apart.

    Args:
        score: Influence score; > 0 harmful.
        flipped: True where the label given is not the true one.

    Shapes: score [N], flipped [N] bool.
    """
    values, truth = _checked(score, flipped, "flip_auc")
    if not truth.any() or truth.all():
        return None
    return float(roc_auc_score(truth, values))


def found_curve(score: Tensor, flipped: Tensor) -> Tensor:
    """The fraction of all flipped samples found after looking at the k highest scores, for k = 0..N.

    Tied samples are looked at in random order, and the curve is the expectation: a straight line through a tie. So the
    curve does not depend on the order of the rows.

    Args:
        score: Influence score; > 0 harmful.
        flipped: True where the label given is not the true one; at least one.

    Shapes: score [N], flipped [N] bool -> [N + 1] float64, from 0 to 1.

    Raises:
        UsageError: No sample is flipped.
    """
    values, truth = _checked(score, flipped, "found_curve")
    if not truth.any():
        raise UsageError("found_curve: no sample is flipped, so there is nothing to find; leave the curve out.")
    _, group, sizes = np.unique(-values, return_inverse=True, return_counts=True)
    found = np.bincount(group, weights=truth)
    looked_at = np.concatenate([[0], sizes.cumsum()])
    curve = np.interp(np.arange(len(values) + 1), looked_at, np.concatenate([[0], found.cumsum()]) / truth.sum())
    return torch.from_numpy(curve)


def _checked(score: Tensor, flipped: Tensor, who: str) -> tuple[np.ndarray, np.ndarray]:
    if score.dim() != 1 or score.shape != flipped.shape:
        raise ShapeError(
            f"{who}: score {list(score.shape)} and flipped {list(flipped.shape)} must both be [N]; give one of each per sample."
        )
    if not bool(torch.isfinite(score).all()):
        raise UsageError(f"{who}: every score must be a finite number, but some are NaN or infinite; check the run's events.")
    return score.detach().double().cpu().numpy(), flipped.bool().cpu().numpy()
