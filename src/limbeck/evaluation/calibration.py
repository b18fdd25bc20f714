"""Whether a model's confidence can be believed."""

import torch
from torch import Tensor

from limbeck.evaluation.accuracy import labelled


def calibration_error(logits: Tensor, labels: Tensor, *, bins: int = 15) -> float:
    """Expected calibration error: sum over bins of (share of samples) * |accuracy - mean confidence|, in [0, 1].

    Confidence is the largest softmax probability; the bins cut [0, 1] into equal widths.

    Args:
        logits: What the model says.
        labels: The true classes.
        bins: Number of bins, 15 in the paper.

    Shapes: logits [N, C], int64 labels [N].

    Reference: Guo, Pleiss, Sun, Weinberger, 2017, arXiv:1706.04599, eq. 3; computed by torchmetrics.
    """
    from torchmetrics.functional.classification import multiclass_calibration_error  # here, since it takes seconds to import

    labelled(logits, labels, "calibration_error")
    # Probabilities, never logits: torchmetrics takes logits that happen to lie in [0, 1] for probabilities.
    probabilities = torch.softmax(logits.float(), dim=-1)
    error = multiclass_calibration_error(probabilities, labels, num_classes=logits.shape[1], n_bins=bins, norm="l1")
    return float(error)
