"""Parts that several of the convolutional nets share. Knows nothing of any one architecture."""

from typing import Literal

from torch import Tensor, nn

from limbeck.core.errors import UsageError
from limbeck.models.spec import DataSpec

Norm = Literal["batch", "group"]

GROUPS = 8
SMALLEST_IMAGE = 8


def image_channels(spec: DataSpec, who: str) -> int:
    """The number of channels of the images.

    Raises:
        UsageError: The images are too small for the net's strides.
    """
    channels, height, width = spec.input_shape
    if min(height, width) < SMALLEST_IMAGE:
        raise UsageError(
            f"{who} takes images of at least {SMALLEST_IMAGE}x{SMALLEST_IMAGE} pixels, got {height}x{width}; use MLP()."
        )
    return channels


def norm_name(norm: str, who: str) -> Norm:
    """The name of a normalisation.

    Raises:
        UsageError: There is none of that name.
    """
    if norm == "batch":
        return "batch"
    if norm == "group":
        return "group"
    raise UsageError(f"{who}: norm must be 'batch' or 'group', got {norm!r}.")


def normalisation(norm: Norm, channels: int) -> nn.Module:
    """Batch normalisation, or group normalisation with 8 groups, which keeps the samples of a batch apart."""
    return nn.BatchNorm2d(channels) if norm == "batch" else nn.GroupNorm(GROUPS, channels)


def convolution(inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """A convolution without bias that keeps the image's size at stride 1."""
    return nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=False)


def conv_bn(inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1, relu: bool = True) -> nn.Sequential:
    """Convolution, batch normalisation and, where asked for, ReLU."""
    parts: list[nn.Module] = [convolution(inputs, outputs, kernel, stride=stride, groups=groups), nn.BatchNorm2d(outputs)]
    return nn.Sequential(*parts, nn.ReLU()) if relu else nn.Sequential(*parts)


def he_initialise(net: nn.Module) -> None:
    """Normal weights with variance 2 / (kernel area * output channels) for every convolution, biases 0.

    Reference: He et al., 2015, "Delving deep into rectifiers", arXiv:1502.01852, eq. 14 (fan-out form).
    """
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


class Pool(nn.Module):
    """The mean over height and width, flat: [B, C, H, W] -> [B, C]."""

    def forward(self, images: Tensor) -> Tensor:
        """The mean of each channel."""
        return images.mean((2, 3))


class ChannelShuffle(nn.Module):
    """Interleaves the channels of `groups` groups: [B, groups * c, H, W] -> the same shape.

    Reference: Zhang et al., 2018, "ShuffleNet", arXiv:1707.01083, fig. 1.
    """

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, images: Tensor) -> Tensor:
        """The same channels in the other order."""
        batch, channels, height, width = images.shape
        grouped = images.reshape(batch, self.groups, channels // self.groups, height, width)
        return grouped.transpose(1, 2).reshape(images.shape)

    def extra_repr(self) -> str:
        """The arguments."""
        return f"groups={self.groups}"
