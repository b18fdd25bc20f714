"""Optimizers and schedules as a recipe names them."""

import math

import pytest
import torch
from torch import nn

from limbeck.core.errors import UsageError
from limbeck.experiment.optimizers import SGD, Adam, AdamW, OptimizerSpec
from limbeck.experiment.schedules import Constant, Cosine, Schedule, Steps


@pytest.mark.parametrize(
    ("spec", "made"),
    [
        (SGD(0.1, nesterov=True), torch.optim.SGD),
        (Adam(0.1), torch.optim.Adam),
        (AdamW(0.1, weight_decay=0.5), torch.optim.AdamW),
    ],
)
def test_specs_build_torch_optimizers_with_their_settings(spec: OptimizerSpec, made: type) -> None:
    optimizer = spec.build([nn.Parameter(torch.zeros(2))])
    assert type(optimizer) is made
    for name in ("lr", "momentum", "weight_decay", "nesterov"):
        if hasattr(spec, name):
            assert optimizer.defaults[name] == getattr(spec, name)


def test_a_frozen_net_is_refused() -> None:
    with pytest.raises(UsageError, match=r"all parameters of the net are frozen, .* teacher_epochs: 0\."):
        SGD(0.1).build([])


@pytest.mark.parametrize(
    "arguments", [{"lr": 0}, {"lr": -1}, {"lr": math.nan}, {"momentum": 1.0}, {"momentum": -0.1}, {"weight_decay": -1}]
)
def test_values_out_of_range_are_refused(arguments: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=r"^SGD: "):
        SGD(**{"lr": 0.1, **arguments})


@pytest.mark.parametrize("schedule", [Constant(), Cosine(), Cosine(warmup=3), Cosine(warmup=20), Steps(at=(2, 5))])
def test_factors_stay_between_0_and_1_and_start_above_0(schedule: Schedule) -> None:
    factors = [schedule.factor(done / 10, 10) for done in range(101)]
    assert all(0 <= factor <= 1 for factor in factors)
    assert factors[0] > 0


def test_cosine_rises_then_falls_to_0() -> None:
    schedule = Cosine(warmup=2)
    assert schedule.factor(1, 10) == 0.5
    assert schedule.factor(2, 10) == 1
    assert schedule.factor(6, 10) == pytest.approx(0.5)
    assert schedule.factor(10, 10) == pytest.approx(0)


def test_steps_fall_at_their_epochs() -> None:
    assert [Steps().factor(done, 240) for done in (0, 149.9, 150, 200, 239)] == pytest.approx([1, 1, 0.1, 0.01, 0.001])
