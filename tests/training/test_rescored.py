"""Weights that are stored per sample and scored anew every few epochs."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from training_makers import BATCH, ROWS, Records, net, parts, prepared, train, weighting

from limbeck.core.errors import UsageError
from limbeck.core.outputs import Views
from limbeck.core.term import Term
from limbeck.influence.curvature.identity import Identity
from limbeck.influence.scores import score
from limbeck.losses.logits.kd import KD
from limbeck.teachers.single import Single
from limbeck.training.callback import Callback
from limbeck.training.checkpoint import Keeper
from limbeck.training.steps.mean_teacher import MeanTeacher
from limbeck.training.steps.offline import Offline
from limbeck.training.steps.student import Student
from limbeck.training.training import Record, Training, Update
from limbeck.transforms.mixup import MixUp
from limbeck.weighting.controls import Oracle, Random, Shuffled
from limbeck.weighting.influence import InfluenceWeighting
from limbeck.weighting.rescored import EACH_STEP, FIRST_ROUND, LATER_ROUND, Table, pace_of
from limbeck.weighting.squash import mean_one, normalise, squash
from limbeck.weighting.stored import Stored
from limbeck.weighting.uniform import Uniform
from limbeck.weighting.weighting import Step, Weighting

PER_EPOCH = ROWS // BATCH


class Scored(Callback):
    """Scores the student itself at every epoch's end, as the weighting should at the next one's beginning."""

    def __init__(self, queries) -> None:  # type: ignore[no-untyped-def]
        self.queries, self.found = queries, []  # type: ignore[var-annotated]

    def after_step(self, training: Training, record: Record) -> None:
        pass

    def after_epoch(self, training: Training) -> None:
        distiller = training.distiller
        train_batches = distiller.weighting.setting.everyone
        self.found.append(score(distiller.student, distiller.task(), train_batches, [self.queries], Identity()).phi)


def test_weights_are_those_of_the_scores_taken_after_the_first_epoch_and_every_second_one() -> None:
    made, records = parts(weights=InfluenceWeighting(Identity(), refresh="epochs:2")), Records()
    looked = Scored(made.queries)
    train(made, epochs=6, callbacks=[records, looked])
    for number, record in enumerate(records.seen):
        epoch = number // PER_EPOCH
        if epoch == 0:
            assert torch.equal(record.weights, torch.ones(BATCH))
            assert record.scores is None
            continue
        rounds = [looked.found[after] for after in range(0, epoch, 2)]  # after epochs 1, 3 and 5
        shares = {1: [1.0], 2: [0.7, 0.3], 3: [0.49, 0.21, 0.3]}[len(rounds)]  # two epochs leave 0.7
        phi, mean = rounds[-1], sum(share * normalise(one, "median") for share, one in zip(shares, rounds, strict=True))
        weights = mean_one(squash(normalise(mean, "median"), 1.0, 4.0), 2.0)
        assert_close(record.weights, weights[record.batch.index])
        assert_close(record.scores, phi[record.batch.index])


@pytest.mark.parametrize("step, asked", [(Student(), 1), (MeanTeacher(0.9), 3)])
def test_a_teacher_that_stands_still_is_asked_once_for_all_rounds_and_one_that_moves_at_each(step: Update, asked: int) -> None:
    made = parts(weights=InfluenceWeighting(Identity(), refresh="epochs:1"))
    teacher = made.distiller.teacher = Single(net(seed=6))
    looked, sizes = Scored(made.queries), []
    teacher.register_forward_pre_hook(lambda _, batch: sizes.append(len(batch[0])))
    records = train(made, step, epochs=4, callbacks=[looked]).records
    for epoch in (1, 2, 3):
        record = records[epoch * PER_EPOCH]
        assert_close(record.scores, looked.found[epoch - 1][record.batch.index])
    assert sizes.count(ROWS) == 4 + asked  # four times by the one who looks on and remembers nothing


@pytest.mark.parametrize("epochs, rounds", [(1, [1, 2, 3, 4]), (2, [1, 3]), (3, [1, 4]), (10, [1])])
def test_when_scores_are_due(epochs: int, rounds: list[int]) -> None:
    table, taken = Table(epochs), []
    for number in range(5 * PER_EPOCH):
        if table.due(number, PER_EPOCH):
            taken.append(number // PER_EPOCH)
            table.keep(torch.arange(3), torch.zeros(3), torch.zeros(3), torch.ones(3), taken[-1])
            assert not table.due(number, PER_EPOCH)
    assert taken == rounds


@pytest.mark.parametrize("asked, begin", [({"start": 3}, 3), ({"refresh": "epochs:2"}, 1)])
def test_weights_that_would_begin_after_the_end_are_told_of(asked: dict[str, Any], begin: int) -> None:
    made = parts(weights=InfluenceWeighting(Identity(), **asked))
    train(made, epochs=begin)
    told = f"not taken: they would begin after {begin} epochs, and the run has {begin}"
    assert made.distiller.weighting.events() == [f"InfluenceWeighting: weights are {told}."]
    assert made.distiller.weighting.schedule(begin) == told


@pytest.mark.parametrize("refresh", ["epochs:2", 1])
def test_weights_may_begin_later(refresh: str | int) -> None:
    records = Records()
    train(parts(weights=InfluenceWeighting(Identity(), refresh=refresh, start=2)), epochs=6, callbacks=[records])
    for number, record in enumerate(records.seen):
        begun = number // PER_EPOCH >= 2
        assert (record.scores is not None) == begun
        assert torch.equal(record.weights, torch.ones(BATCH)) != begun


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_step_with_stored_weights_looks_at_student_and_terms_as_often_as_a_plain_one(accumulate: int) -> None:
    def calls(weights: Weighting) -> list[int]:
        made, count, found = parts(weights=weights), [0], []
        for part in (made.distiller.student, *made.distiller.objective.terms):
            part.register_forward_hook(lambda *_: count.__setitem__(0, count[0] + 1))

        class Count(Callback):
            def after_step(self, training: Training, record: Record) -> None:
                found.append(count[0])

        train(made, epochs=2, accumulate=accumulate, callbacks=[Count()])
        return [after - before for before, after in pairwise(found)]

    stored, plain = calls(InfluenceWeighting(Identity(), refresh="epochs:1")), calls(Uniform())
    rescored = PER_EPOCH - 1
    assert stored[:rescored] + stored[rescored + 1 :] == plain[:rescored] + plain[rescored + 1 :]


class Stop(Callback):
    def after_step(self, training: Training, record: Record) -> None:
        if training.number == PER_EPOCH + 2:
            raise KeyboardInterrupt


def test_a_resumed_run_keeps_its_table(tmp_path) -> None:  # type: ignore[no-untyped-def]
    def run(*callbacks: Callback, keeper: Keeper | None = None):  # type: ignore[no-untyped-def]
        made = parts(kind="dropout", weights=weighting(refresh="epochs:1"))
        return train(made, epochs=4, callbacks=callbacks, keeper=keeper)

    whole = run(Callback())
    with pytest.raises(KeyboardInterrupt):
        run(Stop(), keeper=Keeper(tmp_path / "c.pt", every=PER_EPOCH + 1, pause_s=0.0))
    again = run(Callback(), keeper=Keeper(tmp_path / "c.pt", every=PER_EPOCH + 1, pause_s=0.0))
    for name, part in whole.student.items():
        assert torch.equal(again.student[name], part), name


@pytest.mark.parametrize("refresh", ["epochs:0", "epoch:5", "5", "epochs:", 0, 1.5])
def test_a_refresh_that_says_nothing_is_refused(refresh: object) -> None:
    with pytest.raises(UsageError, match="InfluenceWeighting: refresh must be"):
        InfluenceWeighting(refresh=refresh)  # type: ignore[arg-type]


def test_what_a_long_run_takes_by_itself_is_what_it_takes_when_it_is_named() -> None:
    assert pace_of("auto", "who", 30) == pace_of("epochs:2", "who")


@pytest.mark.parametrize("batch, accumulate, size", [(12, 1, 48), (2, 1, 16), (12, 4, 24)])
def test_samples_are_scored_in_pieces_that_go_by_what_a_step_takes_at_a_time(batch: int, accumulate: int, size: int) -> None:
    made = parts(weights=InfluenceWeighting(Identity()), batch=batch)
    prepared(made, Student(), accumulate=accumulate)
    assert max(map(len, made.distiller.weighting.setting.everyone)) == size


@pytest.mark.parametrize("kind", ["influence", "stored", "oracle", "offline"])
def test_weights_by_identity_of_samples_mixed_in_pairs_are_those_of_both_by_their_shares(kind: str) -> None:
    table = torch.rand(ROWS, generator=torch.Generator().manual_seed(0)) + 0.5
    made, step = parts(), Offline(Identity())
    made.loader.transform = MixUp()
    batch = next(iter(made.loader))
    share, partner = batch.meta["mixed_share"], batch.meta["mixed_with"]
    prepared(made, Student())
    setting = made.distiller.weighting.setting
    seen = Step(PER_EPOCH, batch, lambda: torch.zeros(BATCH), lambda q: torch.zeros(BATCH))
    if kind == "influence":
        influence = InfluenceWeighting(Identity(), refresh="epochs:9")
        influence.bind(setting)
        index = torch.arange(ROWS)
        stored = {f"table/{name}": table for name in ("weights", "scores", "scaled")}
        influence.load_state({**influence.state(), **stored, "table/taken": index[1]})
        found = influence(seen)
    elif kind == "offline":
        training, _ = prepared(made, Student())
        step.weights, step.scores = Stored(torch.arange(ROWS), table), table
        found = step(training, batch).weights
    elif kind == "stored":
        found = Stored(torch.arange(ROWS), table)(seen)
    else:
        table, oracle = (made.clean[:ROWS]).float(), Oracle()
        oracle.bind(setting)
        found = oracle(seen)
    wanted = share * table[batch.index] + (1 - share) * table[partner]
    assert_close(found, mean_one(wanted) if kind == "oracle" else wanted)


class OnDrawn(Term):
    """For what a step has written."""

    drawn = 1.0

    def forward(self, views: Views) -> Tensor:
        return views.student.logits.square().sum(1)


def test_where_terms_are_for_what_a_step_writes_the_data_is_not_scored() -> None:
    def bound(**asked: Any) -> InfluenceWeighting:
        made = parts(weights=InfluenceWeighting(Identity(), **asked), objective=OnDrawn() + KD())
        prepared(made, Student())  # binds the weighting to a run of three epochs
        setting = made.distiller.weighting.setting
        weights = InfluenceWeighting(Identity(), **asked)
        weights.bind(replace(setting, steps=30 * PER_EPOCH))
        return weights

    weights = bound()
    assert weights.direction(0) is not None
    assert weights.schedule(30, written=True).startswith("taken at every step, along a q that is renewed every 20 steps")
    with pytest.raises(UsageError, match=r"refresh='epochs:2' scores the data's own samples, .* such as refresh=20"):
        bound(refresh="epochs:2")


def test_it_says_what_it_is() -> None:
    assert repr(InfluenceWeighting(Identity(), refresh="epochs:5")).endswith("refresh='epochs:5')")


@pytest.mark.parametrize(
    "epochs, asked", [(10, {"refresh": "epochs:2", "normalise": "median"}), (9, {"refresh": 20, "normalise": "zscore"})]
)
def test_left_alone_it_stores_weights_in_long_runs_and_takes_them_at_each_step_in_short_ones(
    epochs: int, asked: dict[str, Any]
) -> None:
    own, named = Records(), Records()
    train(parts(weights=InfluenceWeighting(Identity(), samples=24)), epochs=epochs, callbacks=[own])
    train(parts(weights=InfluenceWeighting(Identity(), samples=24, **asked)), epochs=epochs, callbacks=[named])
    for one, other in zip(own.seen, named.seen, strict=True):
        assert torch.equal(one.weights, other.weights)
    assert not torch.equal(own.seen[-1].weights, torch.ones(BATCH))


def test_weights_of_a_lookahead_are_of_the_moment_and_so_never_steep() -> None:
    made, dot = parts(weights=InfluenceWeighting(Identity(), refresh="epochs:2")), torch.tensor([-3.0, 0.0, 1.0, 5.0])
    train(made)
    step = Step(2, made.queries.take(torch.arange(4)), lambda: torch.zeros(4), lambda q: dot, at={}, queried=({}, 1.0))
    assert_close(made.distiller.weighting(step), mean_one(squash(normalise(-dot, "zscore")), 2.0))


def test_the_schedule_is_told_in_words() -> None:
    weights = InfluenceWeighting()
    assert weights.schedule(9) == "taken at every step, along a q that is renewed every 20 steps; scores are scaled by zscore"
    stored = "stored: all training samples are scored after the first epoch and then every 2 epochs; scores are scaled by median"
    assert weights.schedule(10) == stored == Shuffled(weights).schedule(10)
    assert "every 2 epochs" in weights.schedule(44)
    assert "every 6 epochs" in weights.schedule(100)
    assert "scored after 8 epochs and then every 2 epochs; " in InfluenceWeighting(start=8).schedule(10)
    assert InfluenceWeighting(start=1).schedule(10) == stored
    for start, refresh, told in [
        (1, 20, "taken at every step from epoch 2 on, along a q that is renewed every 20 steps; "),
        (0, 1, "taken at every step, along a q that is renewed every step; "),
        (3, "epochs:1", "stored: all training samples are scored after 3 epochs and then every epoch; "),
    ]:
        assert InfluenceWeighting(start=start, refresh=refresh).schedule(10).startswith(told)
    assert Random().schedule(10) == ""


@pytest.mark.parametrize("epochs, share", [(1, 0.16334), (2, 0.3), (4, 0.51), (10, 0.83193)])
def test_what_two_epochs_leave_of_a_round_does_not_depend_on_how_often_there_is_one(epochs: int, share: float) -> None:
    table, index = Table(epochs), torch.arange(2)
    assert torch.equal(table.mean(index, torch.tensor([1.0, 2.0])), torch.tensor([1.0, 2.0]))
    table.keep(index, torch.tensor([1.0, 2.0]), torch.zeros(2), torch.ones(2), epoch=1)
    assert_close(table.mean(index, torch.tensor([0.0, 2.0])), torch.tensor([1 - share, 2.0]), atol=1e-5, rtol=0.0)


def test_what_weights_take_is_told_in_plain_runs() -> None:
    assert InfluenceWeighting(refresh=20).extra(4) == InfluenceWeighting(refresh=20, start=2).extra(4) * 2 == EACH_STEP
    rounds = InfluenceWeighting(refresh="epochs:2").extra(6)  # after epochs 1, 3 and 5
    assert rounds == pytest.approx((FIRST_ROUND + 2 * LATER_ROUND) / 6)
    assert Shuffled(InfluenceWeighting(refresh="epochs:2")).extra(6) == rounds
    assert InfluenceWeighting(refresh="epochs:2").extra(1) == Random().extra(6) == 0
