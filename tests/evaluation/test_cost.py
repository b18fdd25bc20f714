import pytest
import torch
from torch import Tensor, nn

from limbeck.align.taps import Tapped
from limbeck.core.batch import Batch
from limbeck.core.errors import UsageError
from limbeck.evaluation.cost import flops, latency_ms, parameters
from limbeck.models.mlp import MLP
from limbeck.models.resnet import ResNet20
from limbeck.models.spec import DataSpec


class Recorder(nn.Module):
    """Remembers how it was called."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, bool, bool]] = []

    def forward(self, inputs: Tensor) -> Tensor:
        self.seen.append((len(inputs), self.training, torch.is_grad_enabled()))
        return inputs


def test_parameters_count_frozen_ones_and_shared_ones_once() -> None:
    linear = nn.Linear(3, 3)
    linear.bias.requires_grad_(False)
    assert parameters(nn.Sequential(linear, linear, nn.BatchNorm1d(3))) == 9 + 3 + 6


def test_flops_of_an_mlp_by_hand() -> None:
    net = MLP(width=128).build(DataSpec("image", (1, 8, 8), 10))
    assert flops(net, torch.randn(5, 1, 8, 8)) == 2 * (64 * 128 + 128 * 10)


def test_flops_of_resnet20_are_the_papers() -> None:
    net = ResNet20().build(DataSpec("image", (3, 32, 32), 10))
    stem, first = 3 * 16 * 9 * 32**2, 6 * 16 * 16 * 9 * 32**2
    second = (16 * 32 * 9 + 5 * 32 * 32 * 9 + 16 * 32) * 16**2
    third = (32 * 64 * 9 + 5 * 64 * 64 * 9 + 32 * 64) * 8**2
    assert flops(net, torch.randn(2, 3, 32, 32)) == 2 * (stem + first + second + third + 64 * 10)


def test_takes_a_batch_where_the_model_does() -> None:
    net = MLP(width=8).build(DataSpec("vector", (4,), 3))
    batch = Batch(torch.randn(3, 4), None, torch.arange(3))
    assert flops(Tapped(net), batch) == flops(net, batch.inputs)
    assert latency_ms(Tapped(net), batch, size=7, repeats=2, warmup=0) > 0


@pytest.mark.parametrize("size", [1, 5])
def test_latency_passes(size: int) -> None:
    net = Recorder()
    assert latency_ms(net, torch.randn(3, 2), size=size, repeats=4, warmup=2) >= 0
    assert net.seen == [(size, False, False)] * 6


def test_latency_is_the_median(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 10.0, 10.001, 20.0, 20.002, 30.0, 35.0])  # one pass to warm up; then 1 ms, 2 ms, 5 s
    monkeypatch.setattr("limbeck.evaluation.cost.time.perf_counter", lambda: next(clock))
    assert latency_ms(Recorder(), torch.randn(1, 2), repeats=3, warmup=1) == pytest.approx(2)


def test_every_module_gets_its_own_mode_back() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2).eval(), Recorder())
    before = [module.training for module in net.modules()]
    statistics = net[1].running_mean.clone()
    flops(net, torch.randn(3, 2))
    latency_ms(net, torch.randn(3, 2), repeats=1, warmup=0)
    with pytest.raises(RuntimeError):
        flops(net, torch.randn(3, 5))
    assert [module.training for module in net.modules()] == before
    assert torch.equal(net[1].running_mean, statistics)


def test_errors() -> None:
    with pytest.raises(UsageError, match="flops: the batch is empty"):
        flops(Recorder(), torch.zeros(0, 2))
    with pytest.raises(UsageError, match="latency_ms: repeats"):
        latency_ms(Recorder(), torch.zeros(1, 2), repeats=0)
