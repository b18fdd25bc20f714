"""Averages of weights: what they are of, that the training does not notice, and that they are resumed exactly."""

import math
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from limbeck.core.batch import Batch
from limbeck.core.errors import UsageError
from limbeck.data.loader import Loader
from limbeck.data.source import InMemory
from limbeck.distiller import Distiller
from limbeck.losses.heads.dho import DHO
from limbeck.losses.labels.ce import CE
from limbeck.teachers.single import Single
from limbeck.training.averages.average import Average, weights_of
from limbeck.training.averages.swad import SWAD, Valley
from limbeck.training.averages.wakd import WAKD
from limbeck.training.averages.weightema import WeightEMA
from limbeck.training.callback import Callback
from limbeck.training.checkpoint import Keeper
from limbeck.training.fit import fit
from limbeck.training.training import Record, Training
from support.makers import normal

ROWS, STEPS = 12, 9


def net(norm: bool = False, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    between = nn.BatchNorm1d(6) if norm else nn.Tanh()
    return nn.Sequential(nn.Linear(5, 6), between, nn.Linear(6, 3)).double()


def loader() -> Loader:
    source = InMemory(normal(ROWS, 5, seed=3), torch.arange(ROWS) % 3, classes=("a", "b", "c"), truth=None, name="x")
    return Loader(source, torch.arange(ROWS), batch_size=4, seed=0, labels=source.labels)


class Way(Callback):
    """The weights after each step."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Tensor]] = []

    def after_step(self, training: Training, record: Record) -> None:
        self.seen.append(weights_of(training.distiller))


def train(*callbacks: Callback, made: Distiller | None = None, steps: int = STEPS, keeper: Keeper | None = None) -> Distiller:
    made = made or Distiller(net(), None, CE())
    queries = next(loader().epoch(0))
    optimizer = torch.optim.SGD(made.trained(), lr=0.3, momentum=0.9)
    fit(made, loader(), optimizer, steps=steps, queries=queries, callbacks=callbacks, keeper=keeper)
    return made


def mean_of(states: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([state[name] for state in states]).mean(0) for name in states[0]}


@pytest.mark.parametrize("start", [0, 4])
def test_wakd_is_the_arithmetic_mean_of_all_weights_from_its_start(start: int) -> None:
    way, average = Way(), WAKD(start)
    made = train(way, average)
    wanted = mean_of(way.seen[start:])
    assert_close(average.weights(), wanted)
    kept = dict(average.averaged(made).named_parameters())
    assert_close({f"student.{name}": part.detach() for name, part in kept.items()}, wanted)


@pytest.mark.parametrize("shift", [0, 1])
def test_wakd_with_looks_keeps_the_mean_that_did_best_on_validation_samples(shift: int) -> None:
    """Against a slow twin that evaluates the mean of every look; with wrong labels the loss rises, with right ones it falls."""
    queries, losses = next(loader().epoch(0)), []
    queries = replace(queries, targets=(queries.targets + shift) % 3)
    way, average = Way(), WAKD(1, every=3, validation=queries)
    train(way, average, steps=14)
    for last in (4, 7, 10, 13):
        mean = mean_of(way.seen[1:last])
        model = net()
        model.load_state_dict({name.removeprefix("student.model."): part for name, part in mean.items()})
        losses.append((nn.functional.cross_entropy(model(queries.inputs), queries.targets).item(), last))
    _, best = min(losses)
    assert best == (4 if shift else 13)
    assert_close(average.weights(), mean_of(way.seen[1:best]))
    assert repr(average) == "WAKD(start=1, every=3)"
    with pytest.raises(UsageError, match="every=6 after start=4 is beyond the 9 steps"):
        WAKD(4, every=6).begin(9, queries)


def fake(values: list[float], average: Average) -> None:
    """Have the average see a student of one weight that takes these values."""
    model = nn.Linear(1, 2, bias=False)
    training = Training(Distiller(model, None, CE()), model, torch.optim.SGD(model.parameters()), None, None, 9)  # type: ignore[arg-type]
    for value in values:
        nn.init.constant_(model.weight, value)
        training.number += 1
        average.after_step(training, cast(Record, None))


def test_golden_numbers() -> None:
    """wakd.md: weights 1, 2, 4, 8 have the mean 3.75, and with decay 0.9 begun at the first 2.051."""
    for average, wanted in ((WAKD(0), 3.75), (WeightEMA(0.9), 2.051)):
        fake([1, 2, 4, 8], average)
        (found,) = average.weights().values()
        assert_close(found, torch.full((2, 1), wanted))


def test_a_constant_course_is_its_own_mean() -> None:
    for average in (WAKD(0), WeightEMA(0.9)):
        fake([0.7, 0.7, 0.7], average)
        (found,) = average.weights().values()
        assert_close(found, torch.full((2, 1), 0.7))


@pytest.mark.parametrize("make", [lambda: WAKD(2, every=2), lambda: WeightEMA(0.9), lambda: SWAD(2, patience=1, tolerance=1)])
def test_the_training_does_not_notice_and_the_average_has_no_gradient(make: type[WAKD]) -> None:
    average = make()
    watched, plain = train(average), train()
    assert all(torch.equal(part, other) for part, other in zip(watched.parameters(), plain.parameters(), strict=True))
    assert not any(part.requires_grad for part in average.weights().values())
    before = deepcopy(watched.state_dict())
    average.averaged(watched)
    assert all(torch.equal(part, before[name]) for name, part in watched.state_dict().items())


def test_before_its_start_it_is_the_student() -> None:
    average = WAKD(100)
    made = train(average)
    assert average.weights() is None
    batch = next(loader().epoch(0))
    assert torch.equal(average.averaged(made)(batch).logits, made.student(batch).logits)


def test_a_linear_model_predicts_the_mean_of_the_predictions() -> None:
    way, average = Way(), WAKD(0)
    made = train(way, average, made=Distiller(nn.Linear(5, 3).double(), None, CE()))
    inputs = normal(7, 5, seed=8)
    each = [inputs @ state["student.model.weight"].T + state["student.model.bias"] for state in way.seen]
    assert_close(average.averaged(made).model(inputs), torch.stack(each).mean(0))


def test_statistics_of_batch_normalisation_are_taken_anew() -> None:
    """Equal batches, so that the mean over batches of their variances is what torch's own pass gives."""
    average = WAKD(0)
    made = train(average, made=Distiller(net(norm=True), None, CE()))
    kept, stale = average.averaged(made, loader()), average.averaged(made)
    hidden = [kept.model[0](batch.inputs) for batch in loader().epoch(0)]
    assert_close(kept.model[1].running_mean, torch.stack([part.mean(0) for part in hidden]).mean(0))
    assert_close(kept.model[1].running_var, torch.stack([part.var(0) for part in hidden]).mean(0))
    assert torch.equal(stale.model[1].running_mean, made.student.model[1].running_mean)


def test_parts_of_terms_that_inference_keeps_are_averaged_too() -> None:
    way, average = Way(), WAKD(0)
    made = Distiller(net(), Single(net(seed=1)), CE() + DHO()).build(loader())
    train(way, average, made=made)
    wanted = mean_of(way.seen)["objective.terms.1.second.heads.0.weight"]
    assert_close(average.averaged(made).model[2].teacher.weight.detach(), wanted)


@pytest.mark.parametrize("make", [lambda: WAKD(2, every=2), lambda: WeightEMA(0.9), lambda: SWAD(2, patience=1, tolerance=2)])
def test_it_is_resumed_exactly(make: type[WAKD], tmp_path: Path) -> None:
    whole, first, second = make(), make(), make()
    train(whole)
    train(first, keeper=Keeper(tmp_path / "a.pt", every=5, pause_s=0.0))
    train(second, keeper=Keeper(tmp_path / "a.pt", every=5, pause_s=0.0))
    wanted, found = whole.weights(), second.weights()
    assert all(torch.equal(part, found[name]) for name, part in wanted.items())


def valley(losses: list[float], *, patience: int = 3, tolerance: int = 2, ratio: float = 1.3) -> tuple[Valley, float | None]:
    """Segment k has the weight 2^k, so that a mean says which segments are in it."""
    found = Valley(patience, tolerance, ratio)
    for number, loss in enumerate(losses):
        found.add(loss, {"w": torch.tensor(2.0**number, dtype=torch.float64)})
    mean = found.result()
    return found, None if mean is None else float(mean["w"])


def mean_from(first: int, last: int) -> float:
    return sum(2.0**number for number in range(first, last + 1)) / (last + 1 - first)


def test_a_constant_loss_starts_at_the_first_check_and_never_ends() -> None:
    found, mean = valley([1.0] * 8)
    assert mean == pytest.approx(mean_from(0, 7))
    assert not found.ended


def test_it_starts_at_the_least_of_the_next_and_ends_before_a_lasting_rise() -> None:
    """Losses 3 2 1 1.1 1.2 9 9 9: segment 2 is the first that is least of three, the threshold 1.3 x 1.1 = 1.43; from 5 on two in
    a row exceed it."""
    found, mean = valley([3, 2, 1, 1.1, 1.2, 9, 9, 9])
    assert found.threshold == pytest.approx(1.43)
    assert found.ended
    assert mean == pytest.approx(mean_from(2, 4))


def test_a_single_rise_does_not_end_it() -> None:
    found, mean = valley([1, 1, 1, 9, 1, 1, 1])
    assert not found.ended
    assert mean == pytest.approx(mean_from(0, 6))


def test_at_the_end_of_training_what_is_left_is_judged_by_the_losses_there_are() -> None:
    _, mean = valley([1, 1, 1, 1, 9])
    assert mean == pytest.approx(mean_from(0, 3))


def test_an_infinite_ratio_never_ends_and_a_falling_loss_never_starts() -> None:
    assert valley([1, 1, 1, 9, 9, 9, 9], ratio=math.inf)[1] == pytest.approx(mean_from(0, 6))
    assert valley([5, 4, 3, 2, 1])[1] is None


@pytest.mark.parametrize(("patience", "tolerance"), [(5, 2), (2, 5), (3, 6)])
def test_the_valley_is_that_of_its_definition(patience: int, tolerance: int) -> None:
    """Against a slow twin that looks at all losses at once."""
    for seed in range(20):
        losses = (1 + 0.4 * normal(30, seed=seed).abs() + (torch.arange(30) > 20) * 0.5).tolist()
        begin = next(k for k in range(30) if losses[k] == min(losses[k : k + patience]))
        threshold = 1.1 * sum(losses[begin : begin + patience]) / patience
        end = begin
        while end + 1 < 30 and min(losses[end + 1 : end + 1 + tolerance]) <= threshold:
            end += 1
        _, mean = valley(losses, patience=patience, tolerance=tolerance, ratio=1.1)
        assert mean == pytest.approx(mean_from(begin, end))


def test_swad_averages_within_segments_and_looks_at_the_student() -> None:
    way, average = Way(), SWAD(3, patience=1, tolerance=1, ratio=1e9)
    train(way, average)
    assert_close(average.weights(), mean_of(way.seen))


def test_what_is_refused() -> None:
    with pytest.raises(UsageError, match="WAKD: start must be a whole number"):
        WAKD(-1)
    with pytest.raises(UsageError, match="WeightEMA: decay must lie in"):
        WeightEMA(2)
    with pytest.raises(UsageError, match="SWAD: every must be"):
        SWAD(0)
    made = Distiller(net(), None, CE())
    with pytest.raises(UsageError, match="SWAD: needs validation samples"):
        fit(made, loader(), torch.optim.SGD(made.trained(), lr=0.1), steps=1, callbacks=[SWAD()])
    empty = Batch(torch.zeros(0, 5), torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long))
    with pytest.raises(UsageError, match="SWAD: needs validation samples"):
        train(SWAD(validation=empty))
