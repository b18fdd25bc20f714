"""Figures of regressed depth maps, as its literature reports them. Knows nothing of models."""

from dataclasses import dataclass

import torch
from torch import Tensor

from limbeck.core.errors import ShapeError, UsageError


@dataclass(frozen=True)
class DepthFigures:
    """Means over the maps, each a mean over its valid pixels.

    Args:
        rmse: Square root of the mean squared error, in the unit of the depth, >= 0.
        relative: Mean |d - g| / g, >= 0.
        log10: Mean |log10 d - log10 g|, >= 0.
        deltas: Shares of pixels with max(d / g, g / d) below 1.25, 1.25^2 and 1.25^3, in [0, 1].
    """

    rmse: float
    relative: float
    log10: float
    deltas: tuple[float, float, float]


def depth_figures(made: Tensor, truth: Tensor) -> DepthFigures:
    """How far depth maps d lie from the true ones g; pixels whose truth is not above 0 do not count.

    Shapes: [N, H, W] or [N, 1, H, W], both alike.

    Raises:
        ShapeError: The maps differ in shape, or are none.
        UsageError: A map has no valid pixel, or a depth that is not above 0 where the truth is.

    Reference: the metrics of Eigen, Puhrsch, Fergus, 2014, arXiv:1406.2283, as in Hu et al., 2021, arXiv:2105.06143. Differs from
    the papers: no.
    """
    if made.shape != truth.shape or made.dim() not in (3, 4) or not made.numel():
        raise ShapeError(f"depth_figures: maps must be [N, H, W], both alike, got {list(made.shape)} and {list(truth.shape)}.")
    d, g = made.double().flatten(1), truth.double().flatten(1)
    valid = g > 0
    if not bool(valid.any(1).all()) or bool((d[valid] <= 0).any()):
        raise UsageError("depth_figures: each map needs a pixel whose truth is above 0, and a depth above 0 wherever that is.")
    d, g = d.where(valid, 1), g.where(valid, 1)  # elsewhere all errors are 0
    count = valid.sum(1)

    def mean(values: Tensor) -> Tensor:
        return values.where(valid, 0).sum(1) / count

    ratio = torch.maximum(d / g, g / d)
    first, second, third = (float(mean((ratio < 1.25**power).double()).mean()) for power in (1, 2, 3))
    return DepthFigures(
        rmse=float(mean((d - g).square()).sqrt().mean()),
        relative=float(mean((d - g).abs() / g).mean()),
        log10=float(mean((d.log10() - g.log10()).abs()).mean()),
        deltas=(first, second, third),
    )
