"""How right a model is: accuracy and negative log-likelihood. Knows nothing of runs, seeds or models."""

import torch
from torch import Tensor

from limbeck.core.errors import ShapeError, UsageError
from limbeck.functional.divergences import cross_entropy


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """The fraction of samples whose largest logit is that of the label; of equal logits the first class counts.

    Shapes: logits [N, C], int64 labels [N].
    """
    labelled(logits, labels, "accuracy")
    return float((logits.argmax(-1) == labels).double().mean())


def nll(logits: Tensor, labels: Tensor) -> float:
    """The mean over samples of -log softmax(logits) at the label, in nats; a proper score of the probabilities.

    Shapes: logits [N, C], int64 labels [N].
    """
    labelled(logits, labels, "nll")
    return float(cross_entropy(logits.double(), labels).mean())


def labelled(logits: Tensor, labels: Tensor, who: str) -> None:
    """Check that there is one row of logits for each label, and at least one.

    Raises:
        ShapeError: The shapes do not fit together.
        UsageError: There is no sample, or a label names no class.
    """
    if logits.dim() != 2 or labels.shape != logits.shape[:1]:
        raise ShapeError(
            f"{who}: expected logits [N, C] and labels [N], "
            f"got {list(logits.shape)} and {list(labels.shape)}; give one row per label."
        )
    if len(labels) == 0:
        raise UsageError(f"{who}: there is no sample to evaluate; give at least one.")
    if int(torch.min(labels)) < 0 or int(torch.max(labels)) >= logits.shape[1]:
        raise UsageError(
            f"{who}: labels must lie in 0..{logits.shape[1] - 1}, "
            f"got {int(labels.min())}..{int(labels.max())}; check the classes."
        )
