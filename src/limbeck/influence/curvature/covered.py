"""The layers that curvature has a product for, or a small matrix of its own, and their part of a vector."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from limbeck.influence.captured import gain_and_shift, padded
from limbeck.influence.curvature.lookup import Lookup
from limbeck.influence.vectors import Vector, trainable

DENSE = 2_048
"""Most numbers of a normalisation's gain and shift whose curvature is a matrix of its own: its eigenvectors cost their cube."""

Layer = nn.Linear | nn.Conv1d | nn.Conv2d
Normalisation = nn.LayerNorm | nn.GroupNorm | _BatchNorm


@dataclass(frozen=True)
class Block:
    """A layer whose curvature is a Kronecker product, and the parameters that it covers.

    Args:
        layer: A linear or convolution layer, grouped ones too: one product per group.
        weight: The name of its weight.
        bias: The name of its bias, None where it has none or it is not trained.
    """

    layer: Layer
    weight: str
    bias: str | None

    def matrix(self, v: Vector) -> Tensor:
        """The layer's part of a vector as [groups, outputs, inputs (+1 for the bias)]."""
        weight = v[self.weight]
        groups = getattr(self.layer, "groups", 1)
        rows = weight.reshape(groups, weight.shape[0] // groups, -1)
        return rows if self.bias is None else torch.cat([rows, v[self.bias].reshape(groups, -1, 1)], dim=2)

    def parts(self, matrix: Tensor, like: Vector) -> Vector:
        """The inverse of `matrix`: the layer's parameters by name."""
        if self.bias is None:
            return {self.weight: matrix.reshape(like[self.weight].shape)}
        return {
            self.weight: matrix[:, :, :-1].reshape(like[self.weight].shape),
            self.bias: matrix[:, :, -1].reshape(like[self.bias].shape),
        }

    def pair(self, activation: Tensor, gradient: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """One call's inputs and output gradients, of as many samples as `count` says."""
        return by_sample(self.inputs(activation), count), by_sample(self.gradients(gradient), count)

    def inputs(self, activation: Tensor) -> Tensor:
        """The layer's input as rows that its weight multiplies: [B, groups, positions, inputs (+1)]."""
        rows = activation.unsqueeze(1) if isinstance(self.layer, nn.Linear) else _unfold(self.layer, activation)
        rows = rows.reshape(len(activation), rows.shape[1], -1, rows.shape[-1])
        return rows if self.bias is None else F.pad(rows, (0, 1), value=1.0)

    def gradients(self, gradient: Tensor) -> Tensor:
        """The gradient of the layer's output as [B, groups, positions, outputs]."""
        if isinstance(self.layer, nn.Linear):
            return gradient.reshape(len(gradient), 1, -1, gradient.shape[-1])
        return gradient.reshape(len(gradient), self.layer.groups, gradient.shape[1] // self.layer.groups, -1).transpose(2, 3)


def by_sample(part: Tensor, count: int) -> Tensor:
    """[B k, G, T, n] of a layer that saw k rows of each of `count` samples -> [B, G, k T, n]; other rows stay as they are."""
    rows, groups, _, width = part.shape
    if rows == count or rows % count:
        return part
    return part.reshape(count, rows // count, groups, -1, width).transpose(1, 2).reshape(count, groups, -1, width)


@dataclass(frozen=True)
class Gains:
    """A normalisation's gain and shift, whose curvature is one small matrix without a structure.

    They are taken as the weight of a layer with one input, the number 1: the output factor is then the mean of g g', g the
    sample's gradient in both, the input factor is 1, and what is exact for a Kronecker product is exact here.

    Args:
        layer: Layer, group, instance or batch normalisation.
        weight: The name of its gain.
        bias: The name of its shift, None where it has none or it is not trained.
    """

    layer: Normalisation
    weight: str
    bias: str | None

    def matrix(self, v: Vector) -> Tensor:
        """Gain and shift as [1, numbers, 1]."""
        return torch.cat([v[name].flatten() for name in self._names]).view(1, -1, 1)

    def parts(self, matrix: Tensor, like: Vector) -> Vector:
        """The inverse of `matrix`: gain and shift by name."""
        split = torch.split(matrix.flatten(), [like[name].numel() for name in self._names])
        return {name: part.view(like[name].shape) for name, part in zip(self._names, split, strict=True)}

    def pair(self, activation: Tensor, gradient: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """The number 1 and the samples' gradients, [B, 1, 1, 1] and [B, 1, 1, numbers]."""
        gain, shift = (part.flatten(1) for part in gain_and_shift(self.layer, activation, gradient))
        rows = gain if self.bias is None else torch.cat([gain, shift], 1)
        if len(rows) % count == 0:  # a layer that saw each sample several times
            rows = rows.view(count, -1, rows.shape[1]).sum(1)
        return rows.new_ones(len(rows), 1, 1, 1), rows[:, None, None]

    @property
    def _names(self) -> list[str]:
        return [self.weight] if self.bias is None else [self.weight, self.bias]


Covered = Block | Gains | Lookup
"""What curvature has a product for, or a small matrix of its own."""


def _unfold(layer: nn.Conv1d | nn.Conv2d, x: Tensor) -> Tensor:
    """A convolution's input patches, [B, groups, positions, inputs per group x kernel]."""
    x = padded(layer, x)
    kernel, stride, dilation = (tuple(size) for size in (layer.kernel_size, layer.stride, layer.dilation))
    if isinstance(layer, nn.Conv1d):
        x, kernel, stride, dilation = x.unsqueeze(2), (1, *kernel), (1, *stride), (1, *dilation)
    patches = x  # a view and one copy: quicker than F.unfold
    for axis, (size, step, apart) in enumerate(zip(kernel, stride, dilation, strict=True)):
        patches = patches.unfold(2 + axis, apart * (size - 1) + 1, step)[..., ::apart]
    count = patches.shape[2:4].numel()
    return patches.permute(0, 1, 4, 5, 2, 3).reshape(len(x), layer.groups, -1, count).transpose(2, 3)


def blocks(model: nn.Module) -> dict[str, Covered]:
    """Every trained linear, convolution or normalisation layer by module name; a shared weight belongs to the first that has it.

    Embeddings come last, so that a table shared with a head is the head's. A normalisation of more than `DENSE` numbers is left
    out, and so is an embedding that divides gradients by how often a row was looked up.
    """
    names = {id(part): name for name, part in trainable(model).items()}
    found: dict[str, Covered] = {}
    taken: set[str] = set()
    for name, module in model.named_modules():
        weight = names.get(id(getattr(module, "weight", None)))
        if not isinstance(module, Layer | Normalisation) or weight is None or weight in taken:
            continue
        bias = names.get(id(module.bias))
        bias = None if bias in taken else bias
        if isinstance(module, Layer):
            found[name] = Block(module, weight, bias)
        elif module.weight.numel() * (1 if bias is None else 2) <= DENSE:
            found[name] = Gains(module, weight, bias)
        else:
            continue
        taken.update({weight, *([bias] if bias else [])})
    for name, module in model.named_modules():
        weight = names.get(id(getattr(module, "weight", None)))
        if isinstance(module, nn.Embedding) and not module.scale_grad_by_freq and weight is not None and weight not in taken:
            found[name] = Lookup(module, weight)
            taken.add(weight)
    return found
