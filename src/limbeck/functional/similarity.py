"""How near vectors are to one another: directions, Gram matrices, distances, with derivatives that are finite everywhere."""

import torch
from torch import Tensor


def products(one: Tensor, other: Tensor) -> Tensor:
    """All inner products of vectors [..., N, D] and [..., M, D] -> [..., N, M], in full precision under autocast too."""
    with torch.autocast(one.device.type, enabled=False):
        return one @ other.transpose(-1, -2)


def unit(vectors: Tensor, dim: int = -1) -> Tensor:
    """Vectors divided by their lengths; a vector of zeros stays one, with derivatives 0."""
    return vectors * inverse_root(vectors.square().sum(dim, keepdim=True))


def length(vectors: Tensor) -> Tensor:
    """The length of vectors along the last axis, [..., D] -> [...]; derivatives are 0 where it is 0."""
    return root(vectors.square().sum(-1))


def root(squared: Tensor) -> Tensor:
    """The square root of numbers >= 0; derivatives are 0 where it is 0."""
    there = squared > 0
    return there * torch.where(there, squared, 1).sqrt()


def inverse_root(squared: Tensor) -> Tensor:
    """1 by the square root of numbers >= 0; 0 and derivatives 0 where one is 0."""
    return squared.masked_fill(squared == 0, torch.inf).rsqrt()


def differences(vectors: Tensor) -> Tensor:
    """All x_j - x_i of vectors [B, D] -> [B, B, D], with i the first axis."""
    return vectors.unsqueeze(0) - vectors.unsqueeze(1)
