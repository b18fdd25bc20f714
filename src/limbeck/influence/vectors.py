"""Vectors in parameter space, kept by parameter name: what gradients and directions are made of."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

Vector = dict[str, Tensor]


def trainable(model: nn.Module) -> Vector:
    """The model's trainable parameters by name, each shared parameter once. Not copies."""
    return {name: part for name, part in model.named_parameters() if part.requires_grad}


def dot(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> Tensor:
    """<a, b>, summed per parameter and then in float64, so that no digit is lost over many parameters."""
    return torch.stack([(a[name] * b[name]).sum().double() for name in a]).sum()


def combine(a: Mapping[str, Tensor], scale: float | Tensor, b: Mapping[str, Tensor]) -> Vector:
    """A + scale * b."""
    return {name: part + (scale * b[name]).to(part.dtype) for name, part in a.items()}


def scaled(a: Mapping[str, Tensor], scale: float | Tensor) -> Vector:
    """Scale * a."""
    return {name: (part * scale).to(part.dtype) for name, part in a.items()}


def zeros_like(a: Mapping[str, Tensor]) -> Vector:
    """The zero vector of the same shape."""
    return {name: torch.zeros_like(part) for name, part in a.items()}


def flatten(a: Mapping[str, Tensor]) -> Tensor:
    """All numbers in one row, [P], in the order of the names."""
    return torch.cat([part.reshape(-1) for part in a.values()])


def unflatten(row: Tensor, like: Mapping[str, Tensor]) -> Vector:
    """The row [P] cut back into the shapes of `like`."""
    pieces = torch.split(row, [part.numel() for part in like.values()])
    return {name: piece.view_as(part) for (name, part), piece in zip(like.items(), pieces, strict=True)}
