"""Trained layers that bring a student's features to the teacher's shape. Only training has them; none is kept afterwards.

Every maker takes some of the features that the layer will see, in at least float32, and gives the layer in their precision.
"""

from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limbeck.core.errors import ShapeError


def channels(features: Tensor) -> int:
    """Channels of a map [B, C, H, W]; else the last axis, of vectors [B, D] or tokens [B, L, D]."""
    return features.shape[1] if features.dim() == 4 else features.shape[-1]


@final
class Pointwise(nn.Conv2d):
    """A 1x1 convolution of maps, [B, C, H, W] -> [B, outputs, H, W], taken as products of matrices; see `mixed`."""

    def __init__(self, inputs: int, outputs: int, *, bias: bool = True) -> None:
        super().__init__(inputs, outputs, 1, bias=bias)

    def forward(self, maps: Tensor) -> Tensor:
        """The maps with other channels."""
        return mixed(maps, self.weight.flatten(1), self.bias)


def mixed(maps: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A 1x1 convolution, [B, C, H, W] by [D, C] -> [B, D, H, W]: with few channels several times as fast as `conv2d` on a CPU.

    Where channels outnumber the places it is `conv2d`: the products give the weights a gradient for every sample, which would be
    larger than the maps.
    """
    places = maps.flatten(2)
    if places.shape[2] < maps.shape[1]:
        return F.conv2d(maps, weight[:, :, None, None], bias)
    each = weight.expand(len(maps), -1, -1)
    made = torch.bmm(each, places) if bias is None else torch.baddbmm(bias.unsqueeze(1), each, places)
    return made.reshape(len(maps), len(weight), *maps.shape[2:])


def pointwise(features: Tensor, outputs: int, *, bias: bool = True) -> nn.Module:
    """A linear layer on every place of a map (a 1x1 convolution), on every token, or on a vector."""
    inputs = channels(features)
    layer = Pointwise(inputs, outputs, bias=bias) if features.dim() == 4 else nn.Linear(inputs, outputs, bias=bias)
    return layer.to(features)


def normalised(features: Tensor, outputs: int, who: str, *, relu: bool = True) -> nn.Sequential:
    """A pointwise layer, batch normalisation and, if asked for, ReLU, on maps or vectors.

    Raises:
        ShapeError: The features are neither.
    """
    if features.dim() not in (2, 4):
        raise ShapeError(f"{who}: features must be [B, D] or [B, C, H, W], got {list(features.shape)}; tap another module.")
    norm = nn.BatchNorm2d(outputs) if features.dim() == 4 else nn.BatchNorm1d(outputs)
    layers = [pointwise(features, outputs, bias=False), norm, *([nn.ReLU()] if relu else [])]
    return nn.Sequential(*layers).to(features)


def regressor(student: Tensor, teacher: Tensor, who: str) -> nn.Module:
    """FitNet's adapter: a linear layer between vectors or tokens; between maps a convolution to the other size, norm and ReLU.

    The convolution is 3x3 with stride 2 where the student's map is twice as large, transposed 4x4 with stride 2 where it is half
    as large, and else of the size that takes the student's map to the teacher's without padding.

    Raises:
        ShapeError: One is a map and the other is not, the tokens differ in number, or no such convolution exists.
    """
    if student.dim() != teacher.dim() or (student.dim() != 4 and student.shape[:-1] != teacher.shape[:-1]):
        raise ShapeError(
            f"{who}: student features {list(student.shape)} cannot be brought to the teacher's {list(teacher.shape)}; "
            "tap modules that give the same kind of feature."
        )
    if student.dim() != 4:
        return pointwise(student, teacher.shape[-1])
    inputs, outputs = student.shape[1], teacher.shape[1]
    (height, width), (wanted_height, wanted_width) = student.shape[2:], teacher.shape[2:]
    if (height, width) == (2 * wanted_height, 2 * wanted_width):
        convolution: nn.Module = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False)
    elif (2 * height, 2 * width) == (wanted_height, wanted_width):
        convolution = nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1, bias=False)
    elif height >= wanted_height and width >= wanted_width:
        convolution = nn.Conv2d(inputs, outputs, (1 + height - wanted_height, 1 + width - wanted_width), bias=False)
    else:
        raise ShapeError(
            f"{who}: no adapter takes a student map of {height} x {width} to the teacher's {wanted_height} x {wanted_width}; "
            "tap a stage of the same, twice or half the size."
        )
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU()).to(student)


def perceptron(features: Tensor, outputs: int, depth: int = 3) -> nn.Sequential:
    """Pointwise layers without bias, all `outputs` wide, with ReLU between them."""
    layers: list[nn.Module] = [pointwise(features, outputs, bias=False)]
    for _ in range(depth - 1):
        inner = Pointwise(outputs, outputs, bias=False) if features.dim() == 4 else nn.Linear(outputs, outputs, bias=False)
        layers += [nn.ReLU(), inner]
    return nn.Sequential(*layers).to(features)


def fitting(classifier: nn.Linear | None, features: Tensor, who: str) -> nn.Linear:
    """The teacher's classifier, when it is there and takes such features (maps are averaged first).

    Raises:
        ShapeError: It is not, or it does not.
    """
    if classifier is None or classifier.in_features != channels(features):
        there = "none" if classifier is None else f"one for {classifier.in_features} features"
        raise ShapeError(
            f"{who} asks the teacher's linear classifier about features {list(features.shape)}, but the teacher has {there}; "
            "tap what goes into its classifier."
        )
    return classifier.to(features)
