"""Stopped after any step and gone on with from its checkpoint, `fit` ends in the same bits as if nothing had happened."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from training_makers import Parts, Ran, parts, random_weights, same, train, weighting

from limbeck.experiment.logbook import Logbook, SampleTracker
from limbeck.influence.curvature.diagonal import Diagonal
from limbeck.influence.curvature.ekfac import EKFAC
from limbeck.influence.curvature.kfac import KFAC
from limbeck.training.callback import Callback
from limbeck.training.checkpoint import Keeper
from limbeck.training.steps.offline import Offline
from limbeck.training.steps.sequential import Sequential
from limbeck.training.steps.simultaneous import Simultaneous
from limbeck.training.steps.student import Student
from limbeck.training.steps.teacher_only import TeacherOnly
from limbeck.training.training import Record, Training, Update
from limbeck.transforms.crop_flip import CropFlip
from limbeck.weighting.controls import Oracle, OwnLoss, Shuffled
from limbeck.weighting.influence import InfluenceWeighting
from limbeck.weighting.uniform import Uniform
from limbeck.weighting.weighting import Weighting


class Power(BaseException):
    """The power fails."""


class Cut(Callback):
    """Fails after a step."""

    def __init__(self, after: int | None) -> None:
        self.after = after

    def after_step(self, training: Training, record: Record) -> None:
        if training.number == self.after:
            raise Power


def ekfac(**changes: Any) -> InfluenceWeighting:
    return weighting(solver=EKFAC(statistics=4, basis=7), query_batch=5, **changes)


WEIGHTINGS: dict[str, Callable[[], Weighting]] = {
    "uniform": Uniform,
    "random": random_weights,
    "own_loss": OwnLoss,
    "oracle": Oracle,
    "identity": weighting,
    "ekfac": ekfac,
    "kfac": lambda: weighting(solver=KFAC()),
    "diagonal": lambda: weighting(solver=Diagonal()),
    "shuffled": lambda: Shuffled(ekfac()),
}
STEPS: dict[str, Callable[[], Update]] = {
    "student": Student,
    "teacher_only": TeacherOnly,
    "simultaneous": lambda: Simultaneous(feedback=0.5),
    "first_order": lambda: TeacherOnly(feedback=0.5, order="first"),
    "control": lambda: Simultaneous(weighted=False),
    "sequential": Sequential,
    "offline": lambda: Offline(EKFAC(), epochs=1),
}


def some(cases: dict[str, Any], *fast: str) -> list[Any]:
    """All cases by name; those that keep nothing which a fast one does not keep are slow."""
    return [name if name in fast else pytest.param(name, marks=pytest.mark.slow) for name in cases]


class Look(Callback):
    """What a run writes: rows of metrics, events, and each sample's weights."""

    def __init__(self, made: Parts) -> None:
        self.log = Logbook({"seed": 0, "arm": "x"}, len(made.loader), made.queries, made.clean)
        self.tracker = SampleTracker(len(made.clean))

    def after_step(self, training: Training, record: Record) -> None:
        self.log.after_step(training, record)
        self.tracker.after_step(training, record)

    def after_epoch(self, training: Training) -> None:
        self.log.after_epoch(training)

    def state(self) -> dict[str, Any]:
        return {"log": self.log.state(), "tracker": self.tracker.state()}

    def load_state(self, state: dict[str, Any]) -> None:
        self.log.load_state(state["log"])
        self.tracker.load_state(state["tracker"])


def go(
    make: Callable[[], Parts], step: Callable[[], Update], path: Path, every: int, after: int | None, **options: Any
) -> tuple[Ran, Look]:
    made = make()
    look = Look(made)
    ran = train(made, step(), epochs=2, keeper=Keeper(path, every=every, pause_s=0), callbacks=[look, Cut(after)], **options)
    return ran, look


def check(make: Callable[[], Parts], step: Callable[[], Update], folder: Path, cuts: list[int], **options: Any) -> None:
    """One undisturbed run, and one that is stopped at each of the cuts in turn."""
    calm, calm_look = go(make, step, folder / "calm.pt", 1000, None, **options)
    path = folder / "cut.pt"
    for after in cuts:
        with pytest.raises(Power):
            go(make, step, path, 2 if after % 2 else 1, after, **options)
    torch.manual_seed(1234)
    ran, look = go(make, step, path, 1000, None, **options)
    assert same(calm.training.distiller.state_dict(), ran.training.distiller.state_dict())
    assert str(calm.training.optimizer.state_dict()) == str(ran.training.optimizer.state_dict())
    assert calm_look.log.rows == look.log.rows
    assert calm_look.log.events == look.log.events
    assert torch.equal(calm_look.tracker.mean, look.tracker.mean)
    assert torch.equal(calm_look.tracker.last, look.tracker.last)
    assert len(ran.records) < len(calm.records)


@pytest.mark.parametrize("name", some(WEIGHTINGS, "random", "ekfac", "diagonal", "shuffled"))
def test_with_every_weighting(tmp_path: Path, name: str) -> None:
    check(lambda: parts(kind="dropout", weights=WEIGHTINGS[name]()), Student, tmp_path, [2, 7])


@pytest.mark.parametrize("name", some(STEPS, "teacher_only", "simultaneous", "offline"))
def test_with_every_step(tmp_path: Path, name: str) -> None:
    def make() -> Parts:
        return parts(kind="everything", weights=ekfac(), trained=name not in ("student", "offline"))

    check(make, STEPS[name], tmp_path, [3, 6])


def test_with_queries_that_have_their_turn_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For the direction of the weights, at the student and at the lookahead, and for the first order's feedback."""
    monkeypatch.setattr("limbeck.influence.in_turn.LEAST", 2)

    def make() -> Parts:
        return parts(kind="everything", weights=weighting(refresh=2, turns=3), trained=True)

    check(make, STEPS["first_order"], tmp_path, [3, 6])
    (tmp_path / "cut.pt").unlink()
    check(make, STEPS["simultaneous"], tmp_path, [3, 6])


@pytest.mark.parametrize("after", [4, *(pytest.param(after, marks=pytest.mark.slow) for after in (2, 3, 5, 6, 7))])
def test_after_every_step(tmp_path: Path, after: int) -> None:
    check(lambda: parts(kind="dropout", weights=ekfac()), Student, tmp_path, [after])


def test_with_parts_rates_clipping_and_another_optimizer(tmp_path: Path) -> None:
    def make() -> Parts:
        made = parts(kind="dropout", weights=ekfac())
        made.optimizer = torch.optim.Adam(made.distiller.student.parameters(), lr=0.01)
        return made

    check(make, Student, tmp_path, [3, 7], accumulate=3, clip=0.5, rate=lambda number, total: 1 - number / total)


def test_after_the_guard_has_stopped_the_weighting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(InfluenceWeighting, "LOOK_EVERY", 1)

    def make() -> Parts:
        made = parts(weights=weighting(refresh=1))
        original = made.distiller.weighting.bind

        def bind(setting: Any) -> None:
            original(setting)
            made.distiller.weighting.guard.rise = -10.0  # every look is a bad one

        made.distiller.weighting.bind = bind
        return made

    check(make, Student, tmp_path, [5, 7])
    _, look = go(make, Student, tmp_path / "again.pt", 1, None)
    assert ["influence weighting was stopped" in event["what"] for event in look.log.events] == [True]


def test_offline_stopped_in_its_first_training_begins_again(tmp_path: Path) -> None:
    """Nothing is kept of it: the run ends in the same bits all the same."""
    calls = iter(range(100))

    def rate(number: int, total: int) -> float:
        if next(calls) == 3:
            raise Power
        return 1.0

    with pytest.raises(Power):
        train(parts(), Offline(EKFAC(), epochs=2), keeper=Keeper(tmp_path / "a.pt", every=1, pause_s=0), rate=rate)
    assert not (tmp_path / "a.pt").exists()
    again = train(parts(), Offline(EKFAC(), epochs=2), keeper=Keeper(tmp_path / "a.pt", every=1, pause_s=0))
    assert same(again.student, train(parts(), Offline(EKFAC(), epochs=2)).student)


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path / "a.pt", every=1, pause_s=0)
    first = train(parts(weights=ekfac()), keeper=keeper)
    again = train(parts(weights=ekfac()), keeper=keeper)
    assert again.records == []
    assert same(first.student, again.student)


def test_a_transform_draws_the_same(tmp_path: Path) -> None:
    from limbeck.data.loader import Loader
    from limbeck.data.source import InMemory
    from limbeck.distiller import Distiller
    from limbeck.losses.labels.ce import CE

    def make() -> Parts:
        made = parts()
        generator = torch.Generator().manual_seed(0)
        pictures = InMemory(torch.randn(60, 1, 6, 6, generator=generator), torch.arange(60) % 3, truth=torch.arange(60) % 3)
        torch.manual_seed(1)
        student = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(36, 3))
        made.distiller = Distiller(student, None, CE())
        made.loader = Loader(
            pictures, torch.arange(48), batch_size=12, seed=0, labels=pictures.labels, transform=CropFlip(padding=2)
        )
        made.optimizer = torch.optim.SGD(student.parameters(), lr=0.1, momentum=0.9)
        made.queries = next(made.loader.epoch(0))
        made.clean = torch.ones(60, dtype=torch.bool)
        return made

    check(make, Student, tmp_path, [3, 6])
