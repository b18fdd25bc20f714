"""Tangents that ride on a forward pass: right, no longer alive than needed, and without a trace in the pass itself."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.testing import assert_close

from limbeck.core.errors import RunError
from limbeck.influence.tangents import Tangents
from limbeck.influence.vectors import Vector, trainable
from support.makers import normal


class Normed(nn.Module):
    """A batch normalisation whose input moves, or not."""

    def __init__(self, norm: nn.Module, *, first: bool) -> None:
        super().__init__()
        self.before = nn.Identity() if first else nn.Conv2d(3, 3, 3, padding=1)
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.norm(self.before(x)))


def norm_of(kind: str) -> nn.Module:
    norm = nn.BatchNorm2d(3, affine="plain" not in kind, track_running_stats="untracked" not in kind, momentum=0.3, eps=1e-3)
    with torch.no_grad():
        for number, part in enumerate(norm.parameters()):
            part.copy_(normal(3, seed=number) + 1)
    if "frozen" in kind:
        norm.requires_grad_(False)
    if "gain" in kind and norm.bias is not None:
        norm.bias.requires_grad_(False)
    if "shift" in kind and norm.weight is not None:
        norm.weight.requires_grad_(False)
    return norm.eval() if "still" in kind else norm


def direction(net: nn.Module) -> Vector:
    return {name: normal(*part.shape, seed=9 + number) for number, (name, part) in enumerate(trainable(net).items())}


def along(net: nn.Module, x: Tensor, q: Vector) -> Tensor:
    """The derivative along q, by two backward passes."""
    where = tuple(trainable(net)[name].detach() for name in q)

    def forward(*parts: Tensor) -> Tensor:
        found: Tensor = functional_call(net, dict(zip(q, parts, strict=True)), (x,))
        return found

    return torch.autograd.functional.jvp(forward, where, tuple(q.values()))[1]


@pytest.mark.parametrize("first", [True, False], ids=["first", "later"])
@pytest.mark.parametrize("kind", ["", "plain", "untracked", "frozen", "gain", "shift", "still", "still plain", "still frozen"])
def test_batch_normalisation(kind: str, first: bool) -> None:
    torch.manual_seed(0)
    net = Normed(norm_of(kind), first=first).double()
    q, x = direction(net), normal(4, 3, 5, 5, seed=3) * 2 + 7
    if not q:
        pytest.skip("nothing moves")
    wanted, other = along(copy.deepcopy(net), x, q), copy.deepcopy(net)
    with Tangents(net, q) as tangents:
        result = net(x)
    plain = other(x)
    assert torch.equal(result, plain)
    assert_close(dict(net.named_buffers()), dict(other.named_buffers()), rtol=0, atol=0)
    assert_close(tangents.of(result), wanted, rtol=1e-10, atol=1e-10)
    for found in (result, plain):
        found.square().sum().backward()
    for name, part in trainable(net).items():
        assert torch.equal(part.grad, trainable(other)[name].grad), name


def test_no_tangent_outlives_its_tensor() -> None:
    net = nn.Sequential(*(layer for _ in range(6) for layer in (nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU())))
    with Tangents(net, {name: torch.ones_like(part) for name, part in trainable(net).items()}) as tangents:
        result = net(normal(2, 3, 4, 4).float())
    assert len(tangents.known) == len(trainable(net)) + 1  # the graph holds the inputs of all layers, but no tangents of them
    assert tangents.of(result).abs().sum() > 0
    result.sum().backward()
    assert all(part.grad is not None for part in net.parameters())


class Spoilt(nn.Module):
    """Changes what the backward pass needs, where no rule for tangents sees it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        found = F.linear(x, self.layer.weight)
        x.mul_(2)
        return found


def test_what_the_graph_needs_may_not_change() -> None:
    net = Spoilt()
    with Tangents(net, {"layer.weight": torch.ones(3, 3)}):
        result = net(torch.ones(2, 3))
    with pytest.raises(RunError, match="changed in place"):
        result.sum().backward()
