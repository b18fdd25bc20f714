"""What balancers do in whole runs: they go on exactly, count in scores, and are moved by the steps that are made only."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close
from training_makers import parts, prepared, same, train, weighting

from limbeck.balancing.balancer import Balancer
from limbeck.balancing.dynamic_lambda import DynamicLambda
from limbeck.balancing.gradient_alignment import GradientAlignment
from limbeck.balancing.multi_task import CAGrad, PCGrad, UPGrad
from limbeck.balancing.static import Static
from limbeck.balancing.uncertainty import Uncertainty
from limbeck.core.errors import UsageError
from limbeck.losses.labels.ce import CE
from limbeck.losses.logits.kd import KD
from limbeck.training.checkpoint import Keeper
from limbeck.training.steps.offline import Offline
from limbeck.training.steps.sequential import Sequential
from limbeck.training.steps.student import Student
from limbeck.training.weighted import parts_of, peek_at, weighted_backward

BALANCERS: list[Callable[[], Balancer]] = [
    DynamicLambda,
    lambda: DynamicLambda(reference="val", level="all"),
    lambda: Uncertainty(lr=0.1),
    GradientAlignment,
    PCGrad,
    UPGrad,
    CAGrad,
]


@pytest.mark.parametrize("make", [*BALANCERS[1:3], *(pytest.param(one, marks=pytest.mark.slow) for one in BALANCERS[3:])])
def test_a_run_goes_on_exactly(make: Callable[[], Balancer], tmp_path: Path) -> None:
    """With influence weights, which depend on the factors of the step before."""

    def ran(**options: object) -> object:
        made = parts(objective=KD(T=2.0) + CE(), balancer=make(), weights=weighting())
        return train(made, epochs=2, **options).student  # type: ignore[arg-type]

    file = tmp_path / "checkpoint"
    whole = ran()
    ran(steps=5, keeper=Keeper(file, every=5, pause_s=0))
    assert same(ran(keeper=Keeper(file, every=100, pause_s=0)), whole)  # type: ignore[arg-type]


def test_scores_are_about_the_balanced_loss() -> None:
    made = parts(objective=KD(T=2.0) + CE(), balancer=DynamicLambda(mu=0.9, lo=0.9, hi=0.9))
    fixed = parts(objective=KD(T=2.0) * 0.9 + CE() * 0.1)
    losses = []
    for one in (made, fixed):
        training, batch = prepared(one, Student())
        losses.append(peek_at(training, parts_of(training, batch)))
    assert_close(*losses)


def test_with_influence_weights_equal_bounds_are_fixed_coefficients_too() -> None:
    ours = train(parts(objective=KD(T=2.0) + CE(), balancer=DynamicLambda(lo=0.5, hi=0.5), weights=weighting()))
    fixed = train(parts(objective=KD(T=2.0) * 0.5 + CE() * 0.5, weights=weighting()))
    for mine, theirs in zip(ours.student.values(), fixed.student.values(), strict=True):
        assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def test_a_step_that_is_only_looked_at_does_not_move_it() -> None:
    ran = train(parts(objective=KD(T=2.0) + CE(), balancer=DynamicLambda(), trained=True), Sequential())
    balancer = ran.training.distiller.balancer
    assert isinstance(balancer, DynamicLambda)
    assert balancer.count == len(ran.records)


def test_offline_begins_its_second_training_with_a_balance_that_is_new() -> None:
    ran = train(parts(objective=KD(T=2.0) + CE(), balancer=Uncertainty(lr=0.1)), Offline(gain=0.0))
    plain = train(parts(objective=KD(T=2.0) + CE(), balancer=Uncertainty(lr=0.1)))
    assert ran.records[0].figures == plain.records[0].figures


def test_factors_are_constants_and_multiply_the_coefficients() -> None:
    made = parts(objective=KD(T=2.0) * 0.7 + CE() * 0.3, balancer=Uncertainty(lr=0.5))
    training, batch = prepared(made, Student())
    for _ in range(2):  # the first factors are 1
        made.optimizer.zero_grad()
        weighted_backward(training, batch)
    found = [part.grad for part in made.distiller.student.parameters()]
    coefs = (made.distiller.objective.coefs * made.distiller.objective.factors).tolist()
    assert coefs[0] != 0.7
    fixed = parts(objective=KD(T=2.0) * coefs[0] + CE() * coefs[1])
    weighted_backward(prepared(fixed, Student())[0], batch)
    for ours, theirs in zip(found, fixed.distiller.student.parameters(), strict=True):
        assert_close(ours, theirs.grad)


def test_a_batch_in_parts_is_refused() -> None:
    with pytest.raises(UsageError, match=r"PCGrad\(\) balances whole batches"):
        train(parts(balancer=PCGrad()), accumulate=2)
    train(parts(balancer=Static()), accumulate=2, epochs=1)


def test_looking_without_gradients_is_no_step() -> None:
    made = parts(objective=KD(T=2.0) + CE(), balancer=DynamicLambda())
    with torch.no_grad():
        made.distiller(next(made.loader.epoch(0)))
    assert isinstance(made.distiller.balancer, DynamicLambda)
    assert made.distiller.balancer.count == 0
