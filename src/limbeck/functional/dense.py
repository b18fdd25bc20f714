"""How far regressed maps [B, H, W] lie apart over the pixels that count, one value per map. The others may hold anything."""

import torch
from torch import Tensor

from limbeck.functional.similarity import length


def value_gap(one: Tensor, other: Tensor, valid: Tensor) -> Tensor:
    """Mean log(1 + 2 e) of the error e = |one - other| -> [B]."""
    return _mean((2 * _error(one, other, valid)).log1p(), valid)


def gradient_gap(one: Tensor, other: Tensor, valid: Tensor) -> Tensor:
    """Mean log(1 + 2 |dx e|) plus mean log(1 + 2 |dy e|) of the error's differences between neighbours -> [B]."""
    error = _error(one, other, valid)
    total = torch.zeros_like(error[:, 0, 0])
    for axis in (1, 2):
        counted = valid.narrow(axis, 1, valid.shape[axis] - 1) & valid.narrow(axis, 0, valid.shape[axis] - 1)
        total = total + _mean((2 * error.diff(dim=axis).abs()).log1p(), counted)
    return total


def normal_gap(one: Tensor, other: Tensor, valid: Tensor) -> Tensor:
    """Mean 1 - cosine of the surface normals (-dx, -dy, 1), by differences to the next pixel each way -> [B]."""
    counted = valid[:, :-1, :-1] & valid[:, 1:, :-1] & valid[:, :-1, 1:]
    first, second = (_normals(part.where(valid, 0)) for part in (one, other))
    return _mean(1 - (first * second).sum(-1) / (length(first) * length(second)), counted)


def _normals(maps: Tensor) -> Tensor:
    right, down = maps.diff(dim=2)[:, :-1], maps.diff(dim=1)[:, :, :-1]
    return torch.stack([-right, -down, torch.ones_like(right)], -1)


def _error(one: Tensor, other: Tensor, valid: Tensor) -> Tensor:
    return (one - other).where(valid, 0).abs()


def _mean(values: Tensor, counted: Tensor) -> Tensor:
    return values.where(counted, 0).flatten(1).sum(1) / counted.flatten(1).sum(1).clamp(min=1)
