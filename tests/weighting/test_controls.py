"""Controls are worth what their promises are worth."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from limbeck.core.errors import UsageError
from limbeck.weighting.controls import Oracle, OwnLoss, Random, Shuffled
from limbeck.weighting.influence import InfluenceWeighting
from limbeck.weighting.uniform import Uniform
from limbeck.weighting.weighting import Step, Weighting
from support.stub_run import StubRun


class Told(Weighting):
    """Weights 1, 2, 3, ..."""

    def __call__(self, step: Step) -> Tensor:
        return torch.arange(1.0, len(step.losses) + 1)

    def events(self) -> list[str]:
        return ["told"]


MAKERS: list[Callable[[], Weighting]] = [
    Uniform,
    Random,
    OwnLoss,
    Oracle,
    lambda: Shuffled(InfluenceWeighting()),
    InfluenceWeighting,
]


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: repr(make()))
def test_every_weighting_gives_finite_weights_of_mean_near_one_and_no_gradient(make: Callable[[], Weighting]) -> None:
    run = StubRun()
    weights = run.bind(make())(run.step(rows=slice(8, 40)))
    assert weights.shape == (32,)
    assert torch.isfinite(weights).all()
    assert (weights >= 0).all()
    assert not weights.requires_grad
    assert float(weights.mean()) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: repr(make()))
def test_the_same_seed_and_step_give_the_same_weights(make: Callable[[], Weighting]) -> None:
    once, again = (StubRun() for _ in range(2))
    torch.rand(5)
    assert torch.equal(once.bind(make())(once.step(3)), again.bind(make())(again.step(3)))


def test_shuffled_weights_are_taken_the_way_that_was_asked_for() -> None:
    assert Shuffled(InfluenceWeighting(way="reverse")).way == "reverse"


def test_uniform_is_one() -> None:
    run = StubRun()
    assert torch.equal(run.bind(Uniform())(run.step()), torch.ones(32, dtype=torch.float64))
    assert Uniform.constant


def test_random_depends_on_seed_and_step_alone() -> None:
    run = StubRun()
    weighting = run.bind(Random())
    first, second = weighting(run.step(1)), weighting(run.step(2))
    assert not torch.equal(first, second)
    run.move()
    assert torch.equal(weighting(run.step(1)), first)
    assert not torch.equal(run.bind(Random(), seed=5)(run.step(1)), first)
    spread = torch.cat([weighting(run.step(number)) for number in range(100)])
    assert float(spread.std()) == pytest.approx(0.41, abs=0.03)  # of 2 sigmoid(-z), z standard normal


def test_shuffled_deals_the_same_weights_anew() -> None:
    run = StubRun()
    weighting = run.bind(Shuffled(Told()))
    dealt = weighting(run.step(1))
    assert not torch.equal(dealt, torch.arange(1.0, 33))
    assert_close(dealt.sort().values, torch.arange(1.0, 33))
    assert not torch.equal(weighting(run.step(2)), dealt)
    assert torch.equal(run.bind(Shuffled(Told()))(run.step(1)), dealt)
    assert weighting.events() == ["told"]


def test_shuffled_hands_state_and_needs_through() -> None:
    run, twin = StubRun(), StubRun()
    weighting, other = run.bind(Shuffled(InfluenceWeighting(refresh=50))), twin.bind(Shuffled(InfluenceWeighting(refresh=50)))
    assert weighting.needs_queries
    weighting(run.step(0))
    other.load_state(weighting.state())
    run.move()
    twin.move()
    assert torch.equal(weighting(run.step(1)), other(twin.step(1)))
    assert weighting.figures() == other.figures()


def test_own_loss_falls_with_the_loss() -> None:
    run = StubRun()
    step = run.step()
    weights = run.bind(OwnLoss())(step)
    order = step.losses.argsort()
    assert (weights[order].diff() <= 0).all()
    assert weights[order[0]] > 1 > weights[order[-1]]


def test_oracle_drops_the_flipped_and_keeps_the_rest_alike() -> None:
    run = StubRun()
    weights = run.bind(Oracle())(run.step())
    assert torch.equal(weights[:20], torch.zeros(20, dtype=torch.float64))
    assert len(weights[20:].unique()) == 1
    assert weights[20] > 0
    none = run.bind(Oracle())(run.step(rows=slice(0, 10)))
    assert torch.equal(none, torch.zeros(10, dtype=torch.float64))
    with pytest.raises(UsageError, match="Oracle: needs the true labels"):
        run.bind(Oracle(), clean=None)(run.step())


@pytest.mark.parametrize("make", [Random, OwnLoss, Oracle])
def test_two_processes_weigh_as_one(make: Callable[[], Weighting]) -> None:
    """Each holds half of the batch, and normalises over both halves."""
    run = StubRun()
    whole = run.bind(make())(run.step())
    for start in (0, 16):
        half = run.step(rows=slice(start, start + 16))
        everyone = {"losses": run.step().losses, "clean": torch.arange(32) >= 20}

        def gather(values: Tensor, everyone: dict[str, Tensor] = everyone) -> Tensor:
            return everyone["clean"].to(values) if set(values.tolist()) <= {0.0, 1.0} else everyone["losses"]

        part = run.bind(make(), gather=gather, offset=lambda _, start=start: start)(half)
        assert_close(part, whole[start : start + 16])
