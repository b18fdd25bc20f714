"""Both engines keep the same small contract; in one process they give the same bits."""

import gc
import inspect
import weakref
from typing import Any

import pytest
import torch
from torch import nn
from training_makers import distance, parts, same, train, weighting

from limbeck.core.batch import Batch
from limbeck.core.errors import UsageError
from limbeck.engine.accelerate import AccelerateEngine
from limbeck.engine.engine import Engine
from limbeck.engine.local import LocalEngine, find_device

BATCH = Batch(torch.randn(6, 5), torch.arange(6) % 3, torch.arange(10, 16))


def test_the_seam_has_at_most_eight_methods() -> None:
    methods = [name for name, part in vars(Engine).items() if inspect.isfunction(part) and not name.startswith("_")]
    assert len(methods) <= 8
    for engine in (LocalEngine, AccelerateEngine):
        assert all(callable(getattr(engine, name)) for name in methods)


@pytest.mark.parametrize("engine", [LocalEngine, lambda: AccelerateEngine(cpu=True)], ids=["local", "accelerate"])
def test_one_process_has_it_all(engine: Any) -> None:
    one = engine()
    assert (one.processes, one.rank, one.device.type) == (1, 0, "cpu")
    own = one.shard(BATCH)
    assert torch.equal(own.index, BATCH.index)
    assert torch.equal(one.gather(torch.arange(3)), torch.arange(3))
    net = nn.Linear(5, 3)
    ready = one.prepare(net)
    with one.autocast(), one.local(ready):
        loss = ready(own.inputs).square().mean()
    one.backward(loss)
    assert net.weight.grad is not None


@pytest.mark.parametrize("kind", ["dropout", "batchnorm"])
def test_one_process_through_accelerate_is_the_local_one_bit_for_bit(kind: str) -> None:
    ours = train(parts(kind=kind, weights=weighting()), engine=AccelerateEngine(cpu=True))
    assert same(ours.student, train(parts(kind=kind, weights=weighting()), engine=LocalEngine()).student)


def test_bfloat16_through_accelerate_is_the_local_one_bit_for_bit() -> None:
    """Also after an engine of another precision in the same process: accelerate's own setting could not change any more."""
    AccelerateEngine(cpu=True)
    ours = train(parts(kind="layernorm", weights=weighting()), engine=AccelerateEngine("bf16", cpu=True))
    assert same(ours.student, train(parts(kind="layernorm", weights=weighting()), engine=LocalEngine(precision="bf16")).student)
    assert 0 < distance(ours.student, train(parts(kind="layernorm", weights=weighting())).student) < 0.03


def test_finished_models_are_let_go() -> None:
    engine = AccelerateEngine(cpu=True)
    seen = [weakref.ref(engine.prepare(nn.Linear(3, 3))) for _ in range(3)]
    gc.collect()
    assert sum(one() is not None for one in seen) <= 1


@pytest.mark.parametrize("engine", [LocalEngine, AccelerateEngine])
def test_an_unknown_precision_is_refused(engine: Any) -> None:
    with pytest.raises(UsageError, match="precision must be 'fp32' or 'bf16', got 'fp8'"):
        engine(precision="fp8")


def test_devices_by_name() -> None:
    assert find_device("cpu") == torch.device("cpu")
    assert find_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(UsageError, match="device must be"):
        find_device("tpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_a_device_that_is_not_there() -> None:
    with pytest.raises(UsageError, match="'cuda' was asked for, but this machine offers none"):
        LocalEngine("cuda")
