"""Removing the worst samples of a scored run, predicted and measured by training its student without them."""

import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from limbeck.core.errors import UsageError
from limbeck.experiment.kept import Kept, kept
from limbeck.experiment.progress import Silent
from limbeck.experiment.removal import check_retraining, query_loss_without
from limbeck.experiment.score_tables import Wanted
from limbeck.experiment.scoring import score_run
from limbeck.influence.curvature.identity import Identity
from limbeck.influence.explain import removal_curve
from limbeck.influence.scores import score

WANTED = Wanted(remove="30", retrain=True)


@pytest.fixture(scope="module")
def student(folder: Path) -> Kept:
    return kept(folder)


def test_without_no_sample_it_is_the_runs_own_student(student: Kept, tmp_path: Path) -> None:
    scores = score(student.student, student.task, list(student.train), student.queries, Identity())
    none = torch.empty(0, dtype=torch.int64)
    assert query_loss_without(student, tmp_path, Silent())(none) == pytest.approx(scores.query_loss, rel=1e-6)


@pytest.mark.slow
def test_prediction_and_measurement_and_going_on(folder: Path, student: Kept, tmp_path: Path) -> None:
    """The summary holds what retraining by hand gives; stopped in its second training, it goes on to the same bytes."""
    found = score_run(folder, tmp_path / "s.parquet", Identity(), WANTED)
    summary = json.loads((tmp_path / "s.json").read_text())
    scores = score(student.student, student.task, list(student.train), student.queries, Identity(), seed=student.data.seed)
    (asked,) = [one for one in summary["removal"] if one["count"] == 30]
    assert asked["predicted"] == pytest.approx(float(removal_curve(scores.phi)[30]), rel=1e-5)
    worst = scores.index[scores.phi.argsort(descending=True, stable=True)[:30]]
    after = query_loss_without(student, tmp_path / "by hand", Silent())(worst)
    assert asked["measured"] == pytest.approx(after - scores.query_loss, rel=1e-4)
    assert asked["random"] != asked["measured"]
    assert [one for one in summary["removal"] if "measured" in one] == [asked]
    assert "Without its 30 most harmful of 1082 samples" in found.sentence
    assert "Trained again without them it changed by" in found.sentence
    with suppress(_Enough):
        score_run(folder, tmp_path / "t.parquet", Identity(), WANTED, progress=_Second())
    assert len(list((tmp_path / "t.parts" / "retrained").iterdir())) == 2
    score_run(folder, tmp_path / "t.parquet", Identity(), WANTED, resume=True)
    assert (tmp_path / "t.json").read_bytes() == (tmp_path / "s.json").read_bytes()
    assert not (tmp_path / "t.parts").exists()


class _Enough(Exception):  # noqa: N818 - no error
    """Stops a scoring."""


class _Second:
    """Progress that stops where the second training begins."""

    trainings = 0

    def start(self, total_units: int) -> None:
        assert total_units == 3

    def unit(self, name: str, steps: int) -> None:
        self.trainings += name.startswith("seed")
        if self.trainings == 2:
            raise _Enough

    def advance(self, steps: int) -> None:
        pass

    def done(self) -> None:
        pass


def test_a_share_of_the_samples() -> None:
    assert [Wanted(remove=text).removed(200) for text in ("", "7", "5%", "0.5%", "0.01%")] == [10, 7, 10, 1, 1]


@pytest.mark.parametrize("text", ["some", "-1", "5 %", "1.5"])
def test_what_is_no_number_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--remove: must be a number of samples such as 50 or a share such as 5%"):
        Wanted(remove=text)


@pytest.mark.parametrize("text", ["0", "1082", "100%"])
def test_as_many_as_cannot_be_removed_are_refused_before_any_work(folder: Path, tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageError, match="--remove: must be from 1 to 1081 of the 1082 samples"):
        score_run(folder, tmp_path / "s.parquet", Identity(), Wanted(remove=text))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("changes", [{"step": "Simultaneous()"}, {"generations": 2}])
def test_a_teacher_that_was_not_kept_is_refused(student: Kept, changes: dict[str, object]) -> None:
    recipe = type(student.recipe).of({**student.recipe.model_dump(), **changes})
    with pytest.raises(UsageError, match="--retrain: the run's teacher changed"):
        check_retraining(replace(student, recipe=recipe, parts=recipe.build()))
