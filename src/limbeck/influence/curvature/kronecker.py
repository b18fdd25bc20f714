"""The shared mathematics of K-FAC and EK-FAC: Kronecker factors, their eigenbasis, and the damped inverse in that basis.

A layer's Fisher matrix is taken as A (x) S with A the mean over samples and (counted) positions of a a', and S the mean over
samples of the sum over positions of d d' (a: the layer's inputs with a 1 for the bias, d: gradients of its outputs). Grouped
and depthwise convolutions have one product per group. Where a layer has more than `WIDE` inputs or outputs, as a language model's
head has, that factor is its diagonal. A normalisation's gain and shift have one dense matrix: S, with A the number 1. An
embedding is a layer of one-hot inputs: A is a diagonal, and its eigenvectors are the table's rows. Parameters that no such layer
covers (bare parameters, very wide normalisations) are divided by their mean squared gradient, one number per tensor.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.func import vmap

from limbeck.influence.curvature.basis import Basis, eigen
from limbeck.influence.curvature.capture import Captured
from limbeck.influence.curvature.covered import Covered
from limbeck.influence.curvature.lookup import Lookup
from limbeck.influence.curvature.solver import Gradients
from limbeck.influence.vectors import Vector

WIDE = 4_096
"""Most inputs and outputs of a layer, per group, whose factor is a whole matrix: its eigenvectors cost their cube."""
POSITIONS = 4_096
"""Positions of a layer's inputs that a running factor is renewed from at most: enough for a mean, cheap under convolutions."""

ROUNDING = 32
"""A tensor whose gradients are at most so many last digits of the largest ones has none: noise that is divided by its own square
would have as much say as a whole layer (a shift alone before batch normalisation, or a bias alone of attention's keys)."""


@dataclass(frozen=True)
class Kronecker:
    """The curvature of a whole model.

    Args:
        layers: Each covered layer's basis, by module name.
        others: Mean squared gradient of every parameter tensor that no layer covers.
    """

    layers: dict[str, Basis]
    others: dict[str, Tensor]

    def mixed(self, new: "Kronecker", keep: float) -> "Kronecker":
        """The same eigenbasis with keep x these moments + (1 - keep) x those of the new samples, taken along it."""
        pairs = ((name, basis, new.layers[name]) for name, basis in self.layers.items())
        return Kronecker({name: replace(b, values=_mixed(b.values, n.values, keep)) for name, b, n in pairs}, new.others)

    def turned(self, factors: "Factors") -> "Kronecker":
        """The moments seen along the eigenvectors of these factors: the diagonal there of what they stood for; same trace."""
        fresh = factors.decomposed()
        for name, old in self.layers.items():
            new = fresh.layers[name]
            values = old.values
            if old.outputs is not None and new.outputs is not None:
                values = (new.outputs.transpose(1, 2) @ old.outputs).square() @ values
            if old.inputs is not None and new.inputs is not None:
                values = values @ (old.inputs.transpose(1, 2) @ new.inputs).square()
            fresh.layers[name] = replace(new, values=values)
        return fresh

    def solve(self, v: Vector, where: Mapping[str, Covered], damping: float) -> Vector:
        """(F + damping)^-1 v, block by block, damping relative to each block's mean eigenvalue."""
        q = {name: v[name] / divisor for name, divisor in self._divisors(damping).items()}
        for name, basis in self.layers.items():
            q.update(where[name].parts(basis.inverse(where[name].matrix(v), damping), v))
        return {name: q.get(name, part) for name, part in v.items()}

    def solve_many(self, rows: Vector, where: Mapping[str, Covered], damping: float) -> Vector:
        """`solve` for K vectors stacked along a first axis."""
        solved: Vector = vmap(lambda v: self.solve(v, where, damping))(rows)
        return solved

    def energies(self, gradients: Gradients, where: Mapping[str, Covered], damping: float) -> Tensor:
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
        divisors = self._divisors(damping)
        total.extend(rows.square().flatten(1).sum(1) / divisors.get(name, 1.0) for name, rows in others.items())
        return torch.stack(total).sum(0)

    def _divisors(self, damping: float) -> Vector:
        """What each tensor that no layer covers is divided by; 1 where it has no gradient but what rounding leaves."""
        if not self.others:
            return {}
        largest = max(float(level) for level in (*self.others.values(), *(basis.level for basis in self.layers.values())))
        return {
            name: level * (1 + damping)
            if level > largest * (ROUNDING * torch.finfo(level.dtype).eps) ** 2
            else torch.ones_like(level)
            for name, level in self.others.items()
        }

    def state(self) -> dict[str, Tensor]:
        """Flat, for a checkpoint."""
        flat = {f"others/{name}": level for name, level in self.others.items()}
        for name, basis in self.layers.items():
            parts = {"inputs": basis.inputs, "outputs": basis.outputs, "values": basis.values}
            flat |= {f"{kind}/{name}": part for kind, part in parts.items() if part is not None}
        return flat

    @staticmethod
    def from_state(state: Mapping[str, Tensor]) -> "Kronecker | None":
        """The inverse of `state`; None where nothing was estimated yet."""
        names = [key.removeprefix("values/") for key in state if key.startswith("values/")]
        layers = {n: Basis(state.get(f"inputs/{n}"), state.get(f"outputs/{n}"), state[f"values/{n}"]) for n in names}
        others = {key.removeprefix("others/"): part for key, part in state.items() if key.startswith("others/")}
        return Kronecker(layers, others) if layers or others else None


@dataclass(frozen=True)
class Factors:
    """The Kronecker factors themselves, as means that can run along a training.

    Args:
        inputs: A of every layer, [G, I, I], by module name; of an embedding and of many inputs its diagonal, [G, I].
        outputs: S of every layer, [G, O, O]; of many outputs its diagonal, [G, O].
        others: Mean squared gradient of every parameter tensor that no layer covers.
    """

    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]
    others: dict[str, Tensor]

    def decomposed(self) -> Kronecker:
        """Eigenvectors, and the products of the eigenvalues."""
        layers = {}
        for name, factor in self.inputs.items():
            a_values, a_vectors = _decomposed(factor)
            s_values, s_vectors = _decomposed(self.outputs[name])
            layers[name] = Basis(a_vectors, s_vectors, s_values.unsqueeze(2) * a_values.unsqueeze(1))
        return Kronecker(layers, self.others)

    def mixed(self, new: "Factors", keep: float) -> "Factors":
        """Their running mean: keep x these + (1 - keep) x new ones. A layer that the new samples did not reach had gradient 0."""
        inputs = {name: _mixed(part, new.inputs.get(name, part), keep) for name, part in self.inputs.items()}
        outputs = {name: _mixed(part, new.outputs.get(name), keep) for name, part in self.outputs.items()}
        others = {name: _mixed(part, new.others.get(name), keep) for name, part in self.others.items()}
        return Factors(new.inputs | inputs, new.outputs | outputs, new.others | others)

    def state(self) -> dict[str, Tensor]:
        """Flat, for a checkpoint; `others` stand in that of the curvature."""
        flat = {f"a/{name}": part for name, part in self.inputs.items()}
        return flat | {f"s/{name}": part for name, part in self.outputs.items()}

    @staticmethod
    def from_state(state: Mapping[str, Tensor], others: dict[str, Tensor]) -> "Factors | None":
        """The inverse of `state`; None where no factors were kept."""
        inputs, outputs = ({k.removeprefix(p): v for k, v in state.items() if k.startswith(p)} for p in ("a/", "s/"))
        return Factors(inputs, outputs, others) if inputs else None


def _decomposed(factor: Tensor) -> tuple[Tensor, Tensor | None]:
    """Eigenvalues and eigenvectors; a diagonal's are itself and the unit matrix, None."""
    return (factor, None) if factor.dim() == 2 else eigen(factor)


def _mixed(old: Tensor, new: Tensor | None, keep: float) -> Tensor:
    return keep * old if new is None else keep * old + (1 - keep) * new


def estimate(captured: Iterable[tuple[dict[str, Covered], Captured]]) -> Kronecker:
    """Factors over all samples, their eigenvectors, and the products of their eigenvalues: K-FAC."""
    return factors(captured).decomposed()


def factors(captured: Iterable[tuple[dict[str, Covered], Captured]], draw: torch.Generator | None = None) -> Factors:
    """The two factors of every layer over all samples.

    Args:
        captured: Layer inputs and output gradients.
        draw: Draws `POSITIONS` of a layer's inputs where there are more; None takes all.
    """
    inputs: dict[str, Tensor] = {}
    outputs: dict[str, Tensor] = {}
    positions: dict[str, int] = {}
    others: dict[str, Tensor] = {}
    count = 0
    for where, part in captured:
        count += part.count
        for name, level in part.others.items():
            others[name] = others.get(name, torch.zeros(())) + level * part.count
        for name, calls in part.pairs.items():
            for a, d in ((_drawn(part.counted(a), draw), d) for a, d in calls):
                inputs[name] = inputs.get(name, torch.zeros(())) + _inputs_of(where[name], a, d)
                outputs[name] = outputs.get(name, torch.zeros(())) + _second_moment(d)
                positions[name] = positions.get(name, 0) + a.shape[0] * a.shape[2]
        del part  # nothing of a piece is there when the next one is captured
    return Factors(
        {name: part / max(positions[name], 1) for name, part in inputs.items()},
        {name: part / count for name, part in outputs.items()},
        {name: level / count for name, level in others.items()},
    )


def _inputs_of(block: Covered, a: Tensor, d: Tensor) -> Tensor:
    """The sum over samples and positions of a a', or its diagonal."""
    return block.shares(a).to(d.dtype) if isinstance(block, Lookup) else _second_moment(a)


def _second_moment(rows: Tensor) -> Tensor:
    """The sum over samples and positions of r r', [G, n, n], of rows [B, G, T, n]; its diagonal [G, n] where n is large."""
    return rows.square().sum((0, 2)) if rows.shape[3] > WIDE else torch.einsum("bgti,bgtj->gij", rows, rows)


def _drawn(inputs: Tensor, draw: torch.Generator | None) -> Tensor:
    """`POSITIONS` of a layer's inputs [B, G, T, I], as [n, G, 1, I]; all as they are where there are no more."""
    count = inputs.shape[0] * inputs.shape[2]
    if draw is None or count <= POSITIONS:
        return inputs
    places = torch.randperm(count, generator=draw)[:POSITIONS].to(inputs.device)
    return inputs[places // inputs.shape[2], :, places % inputs.shape[2]].unsqueeze(2)


def corrected(found: Kronecker, captured: Iterable[tuple[dict[str, Covered], Captured]]) -> Kronecker:
    """The same eigenbasis with the true second moments of the gradient along it: EK-FAC."""
    moments = {name: torch.zeros_like(basis.values) for name, basis in found.layers.items()}
    count = 0
    for _, part in captured:
        count += part.count
        for name, calls in part.pairs.items():
            if name in found.layers:
                moments[name] = moments[name] + found.layers[name].moments(calls)
        del part
    layers = {name: replace(basis, values=moments[name] / count) for name, basis in found.layers.items()}
    return replace(found, layers=layers)
