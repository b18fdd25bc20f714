"""Nets that are hard on influence engines, each with a batch of its own; a distillation loss for them."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from limbeck.align.taps import Tapped
from limbeck.core.batch import Batch
from limbeck.influence.task import Distillation
from limbeck.losses.labels.ce import CE
from limbeck.losses.logits.kd import KD
from limbeck.models.mobilenet import MobileNetV2
from limbeck.models.resnet import ResNet8x4
from limbeck.models.spec import DataSpec
from support.makers import labels, normal, told_teacher

ROWS, CLASSES = 4, 3
TASK = Distillation(KD(T=2) * 0.6 + CE(smoothing=0.1) * 0.4, told_teacher)


class Net(nn.Module):
    """Named parts and a function that puts them together."""

    def __init__(self, run: Callable[..., Tensor], **parts: nn.Module) -> None:
        super().__init__()
        self.run = run
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.run(self, inputs)


class Tokens(nn.Module):
    """Embedding, a layer over masked means, and a head that shares the embedding's weight: [B, L] ids -> [B, L, V]."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 5)
        self.mix = nn.Linear(5, 5)
        self.head = nn.Linear(5, 7, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, inputs: Tensor, mask: Tensor) -> Tensor:
        x = self.embedding(inputs)
        mean = (x * mask.unsqueeze(2)).sum(1, keepdim=True) / mask.sum(1).view(-1, 1, 1)
        return self.head(torch.tanh(self.mix(x + mean)))


class Scale(nn.Module):
    """A bare parameter, outside any layer."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([0.7, 1.3, -0.4]))


class Square(torch.autograd.Function):
    """x^2 with a backward and no forward derivative, as many custom kernels are."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return 2 * x * gradients[0]


@dataclass(frozen=True)
class Case:
    """A net and what is special about it.

    Args:
        name: What it shows.
        build: Makes it.
        shape: Of one sample.
        training: Its mode.
        forward: Whether it has a forward derivative.
    """

    name: str
    build: Callable[[], nn.Module]
    shape: tuple[int, ...] = (5,)
    training: bool = True
    forward: bool = True

    def make(self, dtype: torch.dtype = torch.float64) -> Tapped:
        torch.manual_seed(0)
        return Tapped(self.build()).to(dtype).train(self.training)

    def batch(self, dtype: torch.dtype = torch.float64, rows: int = ROWS) -> Batch:
        if self.name == "tokens":
            mask = torch.arange(6) < torch.tensor([6, 2, 4, 1]).unsqueeze(1)
            meta = {"teacher": normal(4, 6, 7, seed=2).to(dtype)}
            return Batch(labels(4, 6, classes=7), labels(4, 6, classes=7, seed=1), torch.arange(4), mask, meta)
        meta = {"teacher": normal(rows, CLASSES, seed=2).to(dtype)}
        return Batch(normal(rows, *self.shape).to(dtype), labels(rows, classes=CLASSES, seed=1), torch.arange(rows), None, meta)


def mlp(width: int = 4) -> nn.Module:
    return nn.Sequential(nn.Linear(5, width), nn.Tanh(), nn.Linear(width, CLASSES))


def convolutional(norm: nn.Module) -> nn.Module:
    """Stride, dilation, groups, depthwise, reflect padding, no bias: all that convolutions can do."""
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=2, padding=1, padding_mode="reflect"),
        norm,
        nn.ReLU(),
        nn.Conv2d(4, 8, 3, groups=2, padding=2, dilation=2, bias=False),
        nn.Conv2d(8, 8, 3, groups=8, padding="same"),
        nn.Tanh(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, CLASSES),
    )


def attention() -> nn.Module:
    part = nn.MultiheadAttention(4, 2, batch_first=True)
    return Net(lambda net, x: net.head(net.part(x, x, x, need_weights=False)[0].mean(1)), part=part, head=nn.Linear(4, CLASSES))


def encoder(dropout: float = 0.0) -> nn.Module:
    part = nn.TransformerEncoderLayer(4, 2, 6, dropout, batch_first=True)
    return Net(lambda net, x: net.head(net.part(x).mean(1)), part=part, head=nn.Linear(4, CLASSES))


def after(part: nn.Module, width: int = 4) -> nn.Module:
    """A first layer from 5 numbers, then a rectifier and a linear head."""
    return nn.Sequential(part, nn.ReLU(), nn.Linear(width, CLASSES))


def frozen() -> nn.Module:
    net = mlp()
    net[0].requires_grad_(False)
    return net


def lstm() -> nn.Module:
    return Net(lambda net, x: net.head(net.part(x)[0][:, -1]), part=nn.LSTM(3, 4, batch_first=True), head=nn.Linear(4, CLASSES))


IMAGE, SEQUENCE = (2, 8, 8), (5, 4)
CASES = [
    Case("mlp", mlp),
    Case("convolutions", lambda: convolutional(nn.Identity()), IMAGE),
    Case("batch norm, train mode", lambda: convolutional(nn.BatchNorm2d(4)), IMAGE),
    Case("batch norm, eval mode", lambda: convolutional(nn.BatchNorm2d(4)), IMAGE, training=False),
    Case("group norm", lambda: convolutional(nn.GroupNorm(2, 4)), IMAGE),
    Case("instance norm that tracks", lambda: convolutional(nn.InstanceNorm2d(4, affine=True, track_running_stats=True)), IMAGE),
    Case("layer norm", lambda: nn.Sequential(nn.Linear(5, 4), nn.LayerNorm(4), nn.GELU(), nn.Linear(4, CLASSES))),
    Case("dropout", lambda: nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, CLASSES))),
    Case("tokens", Tokens),
    Case(
        "a module used twice", lambda: Net(lambda n, x: n.head(n.part(torch.tanh(n.part(x)))), part=nn.Linear(5, 5), head=mlp())
    ),
    Case("attention, train mode", attention, SEQUENCE),
    Case("attention, eval mode", attention, SEQUENCE, training=False),
    Case("encoder layer with dropout", lambda: encoder(0.3), SEQUENCE),
    Case("encoder layer, eval mode", encoder, SEQUENCE, training=False),
    Case("LSTM", lstm, (5, 3)),
    Case(
        "a weight used functionally",
        lambda: Net(lambda n, x: n.head(F.linear(x, n.part.weight)), part=nn.Linear(5, 5), head=mlp()),
    ),
    Case("a bare parameter", lambda: Net(lambda n, x: n.head(x) * n.part.scale, part=Scale(), head=mlp())),
    Case("weight normalisation", lambda: after(parametrizations.weight_norm(nn.Linear(5, 4))), forward=False),
    Case("spectral normalisation", lambda: after(parametrizations.spectral_norm(nn.Linear(5, 4))), forward=False),
    Case(
        "a function without forward derivative",
        lambda: Net(lambda n, x: n.b(Square.apply(n.a(x))), a=mlp(), b=nn.Linear(3, 3)),
        forward=False,
    ),
    Case("a frozen layer", frozen),
    Case("a rectifier in place", lambda: nn.Sequential(nn.Linear(5, 4), nn.ReLU(inplace=True), nn.Linear(4, CLASSES))),
    Case("ResNet-8x4", lambda: ResNet8x4().build(DataSpec("image", (3, 8, 8), CLASSES)), (3, 8, 8)),
    Case("MobileNetV2", lambda: MobileNetV2().build(DataSpec("image", (3, 8, 8), CLASSES)), (3, 8, 8)),
]
BY_NAME = {case.name: case for case in CASES}
