"""One layer's curvature in its Kronecker eigenbasis, and the eigenvectors themselves."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from limbeck.core.errors import RunError
from limbeck.influence.curvature.lookup import row_moments

EXACT_EIGEN = 1_024
"""Up to this size eigenvectors are computed in float64: cheap there, and half a step's noise less."""


@dataclass(frozen=True)
class Basis:
    """One layer's curvature in its Kronecker eigenbasis.

    Args:
        inputs: Eigenvectors of A in columns, [G, I, I]; None for the unit matrix, where A is a diagonal.
        outputs: Eigenvectors of S in columns, [G, O, O]; None for the unit matrix, where S is a diagonal.
        values: Eigenvalues of the layer's Fisher matrix, [G, O, I]: products for K-FAC, second moments for EK-FAC.
    """

    inputs: Tensor | None
    outputs: Tensor | None
    values: Tensor

    @property
    def level(self) -> Tensor:
        """What damping is relative to, a scalar: the mean eigenvalue.

        Along a diagonal, rows of an embedding or of a large head, each counts by its share of the curvature: most rows are rare,
        and the mean over all of them would leave those that are used without damping.
        """
        turned = [axis for axis, vectors in ((1, self.outputs), (2, self.inputs)) if vectors is not None]
        if len(turned) == 2:
            return self.values.mean()
        rows = self.values.mean(turned) if turned else self.values
        return rows.square().sum() / rows.sum().clamp(min=torch.finfo(rows.dtype).tiny)

    def inverse(self, matrix: Tensor, damping: float) -> Tensor:
        """(F + damping x level)^-1 applied to [G, O, I]."""
        level = self.level
        if level == 0:
            return matrix
        left = matrix if self.outputs is None else self.outputs.transpose(1, 2) @ matrix
        turned = (left if self.inputs is None else left @ self.inputs) / (self.values + damping * level)
        back = turned if self.outputs is None else self.outputs @ turned
        return back if self.inputs is None else back @ self.inputs.transpose(1, 2)

    def energies(self, calls: list[tuple[Tensor, Tensor]], damping: float) -> Tensor:
        """Every sample's g' (F + damping x level)^-1 g, [B], from inputs [B, G, T, I] and gradients [B, G, T, O]."""
        level = self.level
        weights = torch.ones_like(self.values) if level == 0 else 1 / (self.values + damping * level)
        if single(calls):
            a, d = self._turned(*calls[0])
            return torch.einsum("bgo,goi,bgi->b", d[:, :, 0].square(), weights, a[:, :, 0].square())
        return torch.cat([(gradients.square() * weights).flatten(1).sum(1) for gradients in self._along(calls)])

    def moments(self, calls: list[tuple[Tensor, Tensor]]) -> Tensor:
        """The sum over samples of the squared gradient in the eigenbasis, [G, O, I]; a layer called twice adds up first."""
        if not calls[0][0].is_floating_point():  # rows that an embedding looked up
            return row_moments(calls, self.outputs, self.values.shape[2])
        if single(calls):
            a, d = self._turned(*calls[0])
            return torch.einsum("bgo,bgi->goi", d[:, :, 0].square(), a[:, :, 0].square())
        return reduce(torch.add, (gradients.square().sum(0) for gradients in self._along(calls)))

    def _turned(self, a: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
        return a if self.inputs is None else a @ self.inputs, d if self.outputs is None else d @ self.outputs

    def _along(self, calls: list[tuple[Tensor, Tensor]]) -> Iterator[Tensor]:
        """Every sample's gradient in the eigenbasis, [b, G, O, I], some samples at a time; turned where that is cheaper."""
        (_, o, i), positions = self.values.shape, sum(a.shape[2] for a, _ in calls)
        sides = [size for size, vectors in ((i, self.inputs), (o, self.outputs)) if vectors is not None]
        early = positions * sum(size * size for size in sides) <= o * i * sum(sides)
        parts = [self._turned(a, d) for a, d in calls] if early else calls
        rows = max(1, 2**24 // self.values.numel())
        for start in range(0, len(parts[0][0]), rows):
            cut = slice(start, start + rows)
            gradients = reduce(torch.add, (d[cut].transpose(2, 3) @ a[cut] for a, d in parts))
            if not early and self.outputs is not None:
                gradients = self.outputs.transpose(1, 2) @ gradients
            yield gradients if early or self.inputs is None else gradients @ self.inputs

    def energies_written(self, matrices: Tensor, damping: float) -> Tensor:
        """The same from gradients that are written out, [B, G, O, I]."""
        return (matrices * self.inverse(matrices, damping)).flatten(1).sum(1)


def single(calls: list[tuple[Tensor, Tensor]]) -> bool:
    """Whether a layer saw each sample once, at one position: its gradient is then one outer product."""
    return len(calls) == 1 and calls[0][0].shape[2] == 1


def eigen(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues (none below 0) and eigenvectors of symmetric matrices [G, n, n].

    Raises:
        RunError: They hold NaN or infinity.
    """
    if not bool(torch.isfinite(matrices).all()):
        raise RunError("curvature: the second moments are NaN or infinite; the model's outputs or gradients overflow.")
    precise = matrices.double() if matrices.shape[-1] <= EXACT_EIGEN else matrices
    try:
        values, vectors = torch.linalg.eigh(precise)
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
        # Single precision does not get by with some large matrices of low rank.
        values, vectors = torch.linalg.eigh(matrices.double())
    return values.clamp(min=0).to(matrices.dtype), vectors.to(matrices.dtype)
