"""Auxiliary heads: from a student's features to logits. Knows nothing of losses, taps or teachers."""

from itertools import pairwise
from typing import Literal, cast, get_args

import torch
from torch import Tensor, nn

from limbeck.core.checks import one_of
from limbeck.core.errors import ShapeError

Kind = Literal["linear", "mlp", "identity", "exit"]

WIDTH = 200
DROPOUT = 0.1
"""Of the `mlp` head, as in the code of dual-head distillation (arXiv:2411.08937)."""


def head_name(value: str, who: str) -> Kind:
    """The value when it is the name of a head."""
    return cast(Kind, one_of(value, get_args(Kind), f"{who}: head"))


def make_head(kind: Kind, features: Tensor, classes: int, *, halvings: int = 0, last: int = 0) -> nn.Module:
    """A fresh head for features of this shape.

    Args:
        kind: `linear`; `mlp`, one hidden layer of 200 with dropout and batch normalisation; `identity`, a square linear layer
            that begins as the identity; `exit`, convolutions on a map [B, C, H, W], and the linear head on vectors.
        features: Some of what it will be called with: vectors [B, D], tokens [B, L, D] or maps [B, C, H, W].
        classes: Number of classes.
        halvings: For `exit`: how often its convolutions halve the map.
        last: For `exit`: channels of the map before its pool; 0 for those of the features.

    Raises:
        ShapeError: This head cannot be made for such features.
    """
    shape, width = list(features.shape), features.shape[-1]
    if kind == "exit" and len(shape) == 4:
        return Exit(shape[1], classes, halvings, last or shape[1])
    if len(shape) == 4:
        return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), make_head(kind, features.flatten(1)[:, : shape[1]], classes))
    if kind == "identity":
        if width != classes:
            raise ShapeError(f"head 'identity' needs one feature per class, got {shape} for {classes} classes; use 'linear'.")
        return Shift(classes)
    if kind == "mlp":
        if len(shape) != 2:
            raise ShapeError(f"head 'mlp' needs vectors [B, D] or maps [B, C, H, W], got {shape}; use 'linear'.")
        hidden = [nn.Linear(width, WIDTH), nn.Dropout(DROPOUT), nn.BatchNorm1d(WIDTH), nn.ReLU()]
        return nn.Sequential(*hidden, nn.Linear(WIDTH, classes))
    return nn.Linear(width, classes)


class Shift(nn.Module):
    """z + D z + a, D and a 0 at first: the linear layer W z + a with W = I + D.

    It is written so that weight decay, which pulls D to 0, pulls W to the identity.

    Shapes: [..., C] -> [..., C].
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.change = nn.Linear(classes, classes)
        nn.init.zeros_(self.change.weight)
        nn.init.zeros_(self.change.bias)

    def forward(self, logits: Tensor) -> Tensor:
        """The shifted logits."""
        shifted: Tensor = logits + self.change(logits)
        return shifted

    def after(self, classifier: nn.Linear) -> nn.Linear:
        """One linear layer that does what the classifier and then this layer do: (W V, W v + a)."""
        weight, bias = classifier.weight.detach(), classifier.bias
        square = self.change.weight.detach() + torch.eye(len(weight), dtype=weight.dtype, device=weight.device)
        both = nn.Linear(weight.shape[1], len(square), dtype=weight.dtype, device=weight.device)
        with torch.no_grad():
            both.weight.copy_(square @ weight)
            both.bias.copy_(self.change.bias if bias is None else square @ bias + self.change.bias)
        return both


class Exit(nn.Module):
    """The branch of one-for-all distillation on a convolutional net's stage: convolutions down to the last stage, pool, linear.

    Each halving is two separable convolutions (3x3 depthwise, the first with stride 2, then 1x1) with batch normalisation and
    ReLU; the channels double at each and end at `last`. Without halvings it is one 1x1 convolution.

    Args:
        channels: Of the map that comes in.
        classes: Number of classes.
        halvings: How often the map is halved, >= 0.
        last: Channels before the pool.

    Shapes: [B, channels, H, W] -> [B, classes].

    Reference: Hao et al., 2023, arXiv:2310.19444, and its code. Differs: `last` there is the larger of the student's and the
    teacher's width.
    """

    def __init__(self, channels: int, classes: int, halvings: int, last: int) -> None:
        super().__init__()
        widths = [channels * 2**number for number in range(halvings)] + [last]
        down = [_halve(inputs, outputs) for inputs, outputs in pairwise(widths)]
        self.steps = nn.Sequential(*down) if down else nn.Conv2d(channels, last, 1)
        self.classifier = nn.Linear(last, classes)

    def forward(self, maps: Tensor) -> Tensor:
        """Logits."""
        logits: Tensor = self.classifier(self.steps(maps).mean((2, 3)))
        return logits


def _halve(inputs: int, outputs: int) -> nn.Sequential:
    def separable(to: int, stride: int) -> list[nn.Module]:
        depthwise = nn.Conv2d(inputs, inputs, 3, stride=stride, padding=1, groups=inputs, bias=False)
        return [depthwise, nn.Conv2d(inputs, to, 1, bias=False), nn.BatchNorm2d(to), nn.ReLU()]

    return nn.Sequential(*separable(inputs, 2), *separable(outputs, 1))
