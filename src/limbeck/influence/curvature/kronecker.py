"""The shared mathematics of K-FAC and EK-FAC: Kronecker factors, their eigenbasis, and the damped inverse in that basis.

A layer's Fisher matrix is taken as A (x) S with A the mean over samples and (counted) positions of a a', and S the mean over
samples of the sum over positions of d d' (a: the layer's inputs with a 1 for the bias, d: gradients of its outputs). Grouped
and depthwise convolutions have one product per group. Parameters that no such layer covers (normalisation, embeddings, bare
parameters) are divided by their mean squared gradient, one number per tensor.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.func import vmap

from limbeck.influence.curvature.capture import Block, Captured
from limbeck.influence.curvature.solver import Gradients
from limbeck.influence.vectors import Vector

EXACT_EIGEN = 1_024
"""Up to this size eigenvectors are computed in float64: cheap there, and half a step's noise less."""


@dataclass(frozen=True)
class Basis:
    """One layer's curvature in its Kronecker eigenbasis.

    Args:
        inputs: Eigenvectors of A in columns, [G, I, I].
        outputs: Eigenvectors of S in columns, [G, O, O].
        values: Eigenvalues of the layer's Fisher matrix, [G, O, I]: products for K-FAC, second moments for EK-FAC.
    """

    inputs: Tensor
    outputs: Tensor
    values: Tensor

    def inverse(self, matrix: Tensor, damping: float) -> Tensor:
        """(F + damping x mean eigenvalue)^-1 applied to [G, O, I]."""
        turned = self.outputs.transpose(1, 2) @ matrix @ self.inputs
        level = self.values.mean()
        if level == 0:
            return matrix
        return self.outputs @ (turned / (self.values + damping * level)) @ self.inputs.transpose(1, 2)

    def energies(self, calls: list[tuple[Tensor, Tensor]], damping: float) -> Tensor:
        """Every sample's g' (F + damping x mean eigenvalue)^-1 g, [B], from inputs [B, G, T, I] and gradients [B, G, T, O]."""
        level = self.values.mean()
        weights = torch.ones_like(self.values) if level == 0 else 1 / (self.values + damping * level)
        turned = [(a @ self.inputs, d @ self.outputs) for a, d in calls]
        if len(turned) == 1 and turned[0][0].shape[2] == 1:
            a, d = turned[0]
            return torch.einsum("bgo,goi,bgi->b", d[:, :, 0].square(), weights, a[:, :, 0].square())
        rows, found = max(1, 2**24 // self.values.numel()), []
        for start in range(0, len(turned[0][0]), rows):
            cut = slice(start, start + rows)
            gradients = sum(d[cut].transpose(2, 3) @ a[cut] for a, d in turned)
            found.append((torch.as_tensor(gradients).square() * weights).flatten(1).sum(1))
        return torch.cat(found)

    def energies_written(self, matrices: Tensor, damping: float) -> Tensor:
        """The same from gradients that are written out, [B, G, O, I]."""
        return (matrices * self.inverse(matrices, damping)).flatten(1).sum(1)


@dataclass(frozen=True)
class Kronecker:
    """The curvature of a whole model.

    Args:
        layers: Each covered layer's basis, by module name.
        others: Mean squared gradient of every parameter tensor that no layer covers.
    """

    layers: dict[str, Basis]
    others: dict[str, Tensor]

    def solve(self, v: Vector, where: Mapping[str, Block], damping: float) -> Vector:
        """(F + damping)^-1 v, block by block, damping relative to each block's mean eigenvalue."""
        q = {name: v[name] / (level * (1 + damping)) if level > 0 else v[name] for name, level in self.others.items()}
        for name, basis in self.layers.items():
            q.update(where[name].parts(basis.inverse(where[name].matrix(v), damping), v))
        return {name: q.get(name, part) for name, part in v.items()}

    def solve_many(self, rows: Vector, where: Mapping[str, Block], damping: float) -> Vector:
        """`solve` for K vectors stacked along a first axis."""
        solved: Vector = vmap(lambda v: self.solve(v, where, damping))(rows)
        return solved

    def energies(self, gradients: Gradients, where: Mapping[str, Block], damping: float) -> Tensor:
        """Every sample's g' (F + damping)^-1 g, [B]: no gradient of a covered layer is written out or turned back."""
        total = []
        for name, basis in self.layers.items():
            block = where[name]
            calls = gradients.factors(block.weight, block.bias)
            if calls is None:
                own = gradients.whole([part for part in (block.weight, block.bias) if part is not None])
                total.append(basis.energies_written(vmap(block.matrix)(own), damping))
            elif calls:
                total.append(basis.energies(calls, damping))
        covered = {part for name in self.layers for part in (where[name].weight, where[name].bias)}
        others = gradients.whole([name for name in gradients.names if name not in covered])
        for name, rows in others.items():
            level = self.others.get(name, torch.zeros(()))
            total.append(rows.square().flatten(1).sum(1) / (level * (1 + damping) if level > 0 else 1.0))
        return torch.stack(total).sum(0)

    def state(self) -> dict[str, Tensor]:
        """Flat, for a checkpoint."""
        flat = {f"others/{name}": level for name, level in self.others.items()}
        for name, basis in self.layers.items():
            flat |= {f"inputs/{name}": basis.inputs, f"outputs/{name}": basis.outputs, f"values/{name}": basis.values}
        return flat

    @staticmethod
    def from_state(state: Mapping[str, Tensor]) -> "Kronecker | None":
        """The inverse of `state`; None where nothing was estimated yet."""
        names = [key.removeprefix("inputs/") for key in state if key.startswith("inputs/")]
        layers = {name: Basis(state[f"inputs/{name}"], state[f"outputs/{name}"], state[f"values/{name}"]) for name in names}
        others = {key.removeprefix("others/"): part for key, part in state.items() if key.startswith("others/")}
        return Kronecker(layers, others) if layers or others else None


def estimate(captured: Iterable[tuple[dict[str, Block], Captured]]) -> Kronecker:
    """Factors over all samples, their eigenvectors, and the products of their eigenvalues: K-FAC."""
    inputs: dict[str, Tensor] = {}
    outputs: dict[str, Tensor] = {}
    positions: dict[str, int] = {}
    others: dict[str, Tensor] = {}
    count = 0
    for _, part in captured:
        count += part.count
        for name, level in part.others.items():
            others[name] = others.get(name, torch.zeros(())) + level * part.count
        for name, calls in part.pairs.items():
            for a, d in ((part.counted(a), d) for a, d in calls):
                inputs[name] = inputs.get(name, torch.zeros(())) + torch.einsum("bgti,bgtj->gij", a, a)
                outputs[name] = outputs.get(name, torch.zeros(())) + torch.einsum("bgto,bgtp->gop", d, d)
                positions[name] = positions.get(name, 0) + a.shape[0] * a.shape[2]
    layers = {}
    for name in inputs:
        a_values, a_vectors = eigen(inputs[name] / max(positions[name], 1))
        s_values, s_vectors = eigen(outputs[name] / count)
        layers[name] = Basis(a_vectors, s_vectors, s_values.unsqueeze(2) * a_values.unsqueeze(1))
    return Kronecker(layers, {name: level / count for name, level in others.items()})


def corrected(found: Kronecker, captured: Iterable[tuple[dict[str, Block], Captured]]) -> Kronecker:
    """The same eigenbasis with the true second moments of the gradient along it: EK-FAC."""
    moments = {name: torch.zeros_like(basis.values) for name, basis in found.layers.items()}
    count = 0
    for _, part in captured:
        count += part.count
        for name, calls in part.pairs.items():
            basis = found.layers.get(name)
            if basis is not None:
                moments[name] = moments[name] + _second_moments(basis, calls)
    layers = {name: replace(basis, values=moments[name] / count) for name, basis in found.layers.items()}
    return replace(found, layers=layers)


def _second_moments(basis: Basis, calls: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Sum over samples of the squared gradient in the eigenbasis, [G, O, I]; a layer called twice adds its gradients first."""
    turned = [(a @ basis.inputs, d @ basis.outputs) for a, d in calls]
    if len(turned) == 1 and turned[0][0].shape[2] == 1:
        a, d = turned[0]
        return torch.einsum("bgo,bgi->goi", d[:, :, 0].square(), a[:, :, 0].square())
    rows = max(1, 2**24 // basis.values.numel())
    total = torch.zeros_like(basis.values)
    for start in range(0, len(turned[0][0]), rows):
        cut = slice(start, start + rows)
        gradients = sum(d[cut].transpose(2, 3) @ a[cut] for a, d in turned)
        total = total + torch.as_tensor(gradients).square().sum(0)
    return total


def eigen(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues (none below 0) and eigenvectors of symmetric matrices [G, n, n]."""
    precise = matrices.double() if matrices.shape[-1] <= EXACT_EIGEN else matrices
    values, vectors = torch.linalg.eigh(precise)
    return values.clamp(min=0).to(matrices.dtype), vectors.to(matrices.dtype)
