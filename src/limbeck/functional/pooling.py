"""Features of any kind brought into one shape. Knows nothing of who is student or teacher."""

import torch.nn.functional as F
from torch import Tensor

from limbeck.core.errors import ShapeError
from limbeck.functional.divergences import full_precision, token_mean


def pooled(features: Tensor, mask: Tensor | None, who: str) -> Tensor:
    """One vector per sample, in at least float32: the mean over the places of a map, or over the tokens that count.

    Shapes: [B, D] (returned as it is), [B, C, H, W], or [B, L, D] with mask [B, L] bool or None -> [B, D]. A sample without any
    counted token gives 0.

    Raises:
        ShapeError: The features are of another kind.
    """
    features = full_precision(features)
    if features.dim() == 2:
        return features
    if features.dim() == 4:
        return features.mean((2, 3))
    if features.dim() != 3:
        raise ShapeError(
            f"{who}: features must be [B, D], [B, C, H, W] or [B, L, D], got {list(features.shape)}; tap another module."
        )
    if mask is None or mask.shape != features.shape[:2]:
        return features.mean(1)
    kept = features.where(mask.unsqueeze(-1), 0)
    return kept.sum(1) / mask.sum(1, keepdim=True).clamp(min=1)


def maps_only(features: Tensor, who: str) -> Tensor:
    """A map [B, C, H, W], in at least float32.

    Raises:
        ShapeError: The features are no map.
    """
    if features.dim() != 4:
        raise ShapeError(f"{who}: features must be maps [B, C, H, W], got {list(features.shape)}; tap a convolutional layer.")
    return full_precision(features)


def same_size(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Two maps [B, C, H, W], each average-pooled to the smaller height and width of the two."""
    size = (min(one.shape[2], other.shape[2]), min(one.shape[3], other.shape[3]))
    first, second = (part if part.shape[2:] == size else F.adaptive_avg_pool2d(part, size) for part in (one, other))
    return first, second


def element_mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """The mean over all elements of a sample: [B, D], [B, C, H, W], or [B, L, D] over the tokens that count -> [B]."""
    if values.dim() == 3 and mask is not None and mask.shape == values.shape[:2]:
        return token_mean(values.mean(-1), mask)
    return values.flatten(1).mean(1)
