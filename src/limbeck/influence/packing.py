"""Directions kept in fewer bytes, so that one pass over the training data serves more queries: rounded, or of low rank."""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from limbeck.core.checks import whole
from limbeck.core.errors import UsageError
from limbeck.influence.vectors import Vector


@dataclass(frozen=True)
class Packed:
    """K directions of one parameter.

    Args:
        values: [K, ...] numbers, or left factors [K, m, r].
        scale: [K, 1, ...], by which the numbers are multiplied, or None.
        right: Right factors [K, r, n], or None.
        shape: [K, ...] of what is kept.
    """

    values: Tensor
    scale: Tensor | None
    right: Tensor | None
    shape: torch.Size

    def unpack(self) -> Tensor:
        """The directions, [K, ...]."""
        if self.right is not None:
            return (self.values @ self.right).reshape(self.shape)
        return self.values if self.scale is None else self.values.to(self.scale.dtype) * self.scale


@final
class Packing:
    """How directions are kept between solving and use.

    Args:
        how: `full`; `float16` or `int8` (one scale per direction and parameter); or `rank:8`, the leading singular vectors of
            each direction's matrix, where that takes fewer numbers.

    Raises:
        UsageError: There is no such way.

    >>> Packing("rank:8")
    Packing('rank:8')
    """

    def __init__(self, how: str = "full") -> None:
        name, _, rank = how.partition(":")
        if name not in ("full", "float16", "int8", "rank") or (name == "rank") != rank.isdigit() or (rank and name != "rank"):
            raise UsageError(f"score_matrix: keep must be 'full', 'float16', 'int8' or 'rank:R', got {how!r}.")
        self.how, self.name = how, name
        self.rank = whole(int(rank), "score_matrix: the rank") if rank else 0

    def pack(self, rows: Vector) -> dict[str, Packed]:
        """K directions, [K, ...] by parameter name, packed."""
        return {name: self._pack(part) for name, part in rows.items()}

    def bytes_of(self, part: Tensor) -> int:
        """What one direction's share for a parameter of this shape takes."""
        count, each = part.numel(), part.element_size()
        if self.name in ("float16", "int8"):
            return count * (2 if self.name == "float16" else 1) + each
        return (self.rank * sum(_sides(part.shape)) if self._cuts(part.shape) else count) * each

    def _cuts(self, shape: torch.Size) -> bool:
        m, n = _sides(shape)
        return self.name == "rank" and self.rank * (m + n) < m * n

    def _pack(self, part: Tensor) -> Packed:
        if self.name in ("float16", "int8"):  # scaled first: gradients are small, and float16 ends at 6e-8
            kind, top = (torch.int8, 127) if self.name == "int8" else (torch.float16, 1)
            scale = _largest(part) / top
            values = part / scale
            return Packed((values.round() if kind is torch.int8 else values).to(kind), scale, None, part.shape)
        if self._cuts(part.shape[1:]):
            u, s, v = torch.linalg.svd(part.reshape(len(part), *_sides(part.shape[1:])), full_matrices=False)
            return Packed(u[..., : self.rank] * s[:, None, : self.rank], None, v[:, : self.rank].contiguous(), part.shape)
        return Packed(part, None, None, part.shape)

    def __repr__(self) -> str:
        return f"Packing({self.how!r})"


def _sides(shape: torch.Size) -> tuple[int, int]:
    """A parameter as a matrix: outputs and all the rest."""
    return (1, shape.numel()) if len(shape) < 2 else (shape[0], shape[1:].numel())


def _largest(part: Tensor) -> Tensor:
    """The largest absolute number of each direction, [K, 1, ...]; never 0."""
    size = part.abs().flatten(1).amax(1).clamp(min=torch.finfo(part.dtype).tiny)
    return size.view(-1, *[1] * (part.dim() - 1))
