"""Tangents that ride on a forward pass: right, no longer alive than needed, and without a trace in the pass itself."""

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.testing import assert_close

from limbeck.core.errors import RunError, UnsupportedModelError
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


MOVING = ["", "untracked", "gain", "shift", "still"]
"""Normalisations of which something moves; of the others only the input does."""


@pytest.mark.parametrize(
    ("kind", "first"),
    [(kind, True) for kind in MOVING] + [(kind, False) for kind in [*MOVING, "plain", "frozen", "still plain", "still frozen"]],
)
def test_batch_normalisation(kind: str, first: bool) -> None:
    torch.manual_seed(0)
    net = Normed(norm_of(kind), first=first).double()
    q, x = direction(net), normal(4, 3, 5, 5, seed=3) * 2 + 7
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


class Calls(nn.Module):
    """A convolution, whatever is done with what it gives, and a head."""

    def __init__(self, call: Callable[[Tensor], Tensor], norm: nn.Module | None = None) -> None:
        super().__init__()
        self.layer, self.norm, self.head, self.call = nn.Conv2d(3, 3, 3), norm or nn.Identity(), nn.Linear(3, 2), call

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(torch.tanh(self.call(self.norm(self.layer(x)))).mean((2, 3)))
        return found


def leaky(h: Tensor) -> Tensor:
    return F.leaky_relu(h, 0.3, True)


def through_a_view(h: Tensor) -> Tensor:
    h.flatten(1).relu_()
    return h


def under_a_view(h: Tensor) -> Tensor:
    view = h[:, :, :2]
    h.relu_()
    return view


def beside_a_view(h: Tensor) -> Tensor:
    part = h[:, :, :1]
    part += 2
    return h[:, :, :2]


def without_a_trace(h: Tensor) -> Tensor:
    h.detach().mul_(2)
    return h


@pytest.mark.parametrize("call", [leaky, through_a_view, under_a_view, beside_a_view, without_a_trace], ids=lambda c: c.__name__)
def test_a_tensor_whose_tangent_is_stale_is_refused(call: Callable[[Tensor], Tensor]) -> None:
    net = Calls(call).double()
    with pytest.raises(UnsupportedModelError, match="in place"), Tangents(net, direction(net)):
        net(normal(2, 3, 5, 5))


def hooked(h: Tensor) -> Tensor:
    h.retain_grad()
    h.register_hook(lambda slope: slope)
    return h.view(h.shape)


CALLS: dict[str, Callable[[Tensor], Tensor]] = {
    "pad": lambda h: F.pad(h, (1, 1), value=2.0),
    "largest": lambda h: h.flatten(2).max(2, keepdim=True).values.unsqueeze(3),
    "sorted": lambda h: torch.topk(h, 2, 3)[0],
    "named": lambda h: torch.flatten(input=h, start_dim=2).mean(dim=2).view(-1, 3, 1, 1) + torch.relu(input=h),
    "named convolution": lambda h: F.conv2d(h, weight=torch.ones(3, 3, 1, 1).double()) + torch.add(h, other=h, alpha=3),
    "dropout in place": lambda h: F.dropout(h + 1.0, 0.5, True, True) * h,
    "in place": lambda h: F.relu(h.add_(1.0), True),
    "hooked": hooked,
    "nothing to do": lambda h: h.contiguous().to(h.dtype) * F.dropout(h, 0.5, False),
    "one sample": lambda h: torch.stack([F.conv2d(one, torch.ones(3, 3, 1, 1).double(), one.sum((1, 2))) for one in h]),
}


@pytest.mark.parametrize("name", CALLS)
def test_calls_of_many_forms(name: str) -> None:
    torch.manual_seed(0)
    net, x = Calls(CALLS[name]).double(), normal(4, 3, 5, 5, seed=3)
    q, rng = direction(net), torch.get_rng_state()
    wanted = along(net, x, q)
    torch.set_rng_state(rng)
    plain = net(x)
    torch.set_rng_state(rng)
    with Tangents(net, q) as tangents:
        result = net(x)
    assert torch.equal(result, plain)
    assert_close(tangents.of(result), wanted, rtol=1e-10, atol=1e-10)


class OwnNorm(nn.Module):
    """Batch normalisation by a call that torch does not document, as some nets have it."""

    def __init__(self, call: Callable[..., Tensor]) -> None:
        super().__init__()
        self.gain, self.call = nn.Parameter(torch.ones(3)), call
        self.register_buffer("mean", torch.zeros(3))
        self.register_buffer("spread", torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.call(x, self.gain, None, self.mean, self.spread, True, 0.1, 1e-5)


NORMS = {
    "batch_norm": lambda: OwnNorm(lambda *parts: torch.batch_norm(*parts, False)),
    "native_batch_norm": lambda: OwnNorm(lambda *parts: torch.native_batch_norm(*parts)[0]),
    "instance norm": lambda: nn.InstanceNorm2d(3, affine=True, track_running_stats=True),
}


@pytest.mark.parametrize("name", NORMS)
def test_running_statistics_move_once(name: str) -> None:
    net, x = Calls(torch.tanh, NORMS[name]()).double(), normal(4, 3, 5, 5)
    other, q = copy.deepcopy(net), direction(net)
    with Tangents(net, q) as tangents:
        result = net(x)
    assert torch.equal(result, other(x))
    assert_close(dict(net.named_buffers()), dict(other.named_buffers()), rtol=0, atol=0)
    assert_close(tangents.of(result), along(net, x, q), rtol=1e-10, atol=1e-10)


def test_one_value_a_channel_has_no_statistics() -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    with pytest.raises(ValueError, match="more than 1 value"), Tangents(net, direction(net)):
        net(torch.ones(1, 3))


def test_whatever_fails_nothing_stays_switched_on() -> None:
    net = Calls(leaky).double()
    with pytest.raises(UnsupportedModelError), Tangents(net, direction(net)) as tangents:
        net(normal(2, 3, 5, 5))
    known, weight = len(tangents.known), net.head.weight
    assert (weight * weight).grad_fn._saved_self is weight  # type: ignore[union-attr]
    assert len(tangents.known) <= known


def test_a_compiled_net_runs_as_it_was_written_while_tangents_ride_on_it() -> None:
    compiled: list[object] = []

    def backend(graph: torch.fx.GraphModule, _inputs: list[Tensor]) -> Callable[..., Tensor]:
        compiled.append(graph)
        return graph.forward

    net, x = Calls(torch.tanh, nn.BatchNorm2d(3)).double(), normal(4, 3, 5, 5)
    q, wanted = direction(net), along(copy.deepcopy(net), x, direction(net))
    net.compile(backend=backend)
    with Tangents(net, q) as tangents:
        result = net(x)
    assert not compiled
    assert_close(tangents.of(result), wanted, rtol=1e-10, atol=1e-10)
    assert_close(net(x), result)
    assert compiled
