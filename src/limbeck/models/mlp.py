"""Fully connected nets."""

import math
from collections import OrderedDict
from dataclasses import dataclass
from typing import ClassVar, final

from torch import nn

from limbeck.core.checks import fraction, whole
from limbeck.core.errors import UsageError
from limbeck.models.spec import Architecture, DataSpec, Kind


@final
@dataclass(frozen=True, repr=False)
class MLP(Architecture):
    """Linear and ReLU, `depth` times, then a linear classifier. Images are flattened.

    Taps: `layer1` ... `layer{depth}` (after the ReLU, before the dropout), `fc`.

    Args:
        width: Units of each hidden layer.
        depth: Number of hidden layers; 0 is a linear classifier.
        dropout: Probability in [0, 1) of dropping a hidden unit.

    Shapes: vectors [B, D] or images [B, C, H, W] -> logits [B, classes].

    Raises:
        UsageError: A value is out of its range.
    """

    takes: ClassVar[tuple[Kind, ...]] = ("vector", "image")

    width: int = 128
    depth: int = 1
    dropout: float = 0.0

    def __post_init__(self) -> None:
        whole(self.width, "MLP: width")
        whole(self.depth, "MLP: depth", least=0)
        if fraction(self.dropout, "MLP: dropout") == 1:
            raise UsageError("MLP: dropout must be below 1, since 1 drops everything.")

    def make(self, spec: DataSpec) -> nn.Module:
        """The module for this data."""
        parts: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
        size = math.prod(spec.input_shape)
        for number in range(1, self.depth + 1):
            parts[f"layer{number}"] = nn.Sequential(nn.Linear(size, self.width), nn.ReLU())
            if self.dropout:
                parts[f"drop{number}"] = nn.Dropout(self.dropout)
            size = self.width
        parts["fc"] = nn.Linear(size, spec.classes)
        return nn.Sequential(parts)
