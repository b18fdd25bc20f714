"""A whole run of a small recipe: what it writes, and what it refuses before it writes anything."""

import errno
import json
import math
import os
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from run_makers import FILES, SAME, marks, rows_of, tiny
from safetensors.torch import load_file

from limbeck.core.errors import RunError, UsageError
from limbeck.experiment.arms import arms_of
from limbeck.experiment.recipe import Recipe
from limbeck.experiment.run import Result, dry_run, run
from limbeck.experiment.scoring import score_run
from limbeck.experiment.unit import Worker
from limbeck.influence.curvature.identity import Identity


class Told:
    """Notes what a run tells of its progress."""

    def __init__(self) -> None:
        self.total, self.units, self.steps, self.ended = 0, [], [], False

    def start(self, total_units: int) -> None:
        self.total = total_units

    def unit(self, name: str, steps: int) -> None:
        self.units.append((name, steps))
        self.steps.append(0)

    def advance(self, steps: int) -> None:
        self.steps[-1] += steps

    def done(self) -> None:
        self.ended = True


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result, Told]:
    folder, told = tmp_path_factory.mktemp("whole") / "run", Told()
    return folder, run(tiny(), folder, progress=told), told


def test_the_folder_holds_what_is_promised_and_nothing_else(finished: tuple[Path, Result, Told]) -> None:
    folder, found, _ = finished
    assert {path.name for path in folder.iterdir()} == FILES
    assert found.folder == folder
    assert json.loads((folder / "result.json").read_text()) == found.content
    assert found.sentence == found.content["verdict"]["sentence"]
    assert Recipe.of(tiny().model_dump(mode="json")).resolved() == (folder / "recipe.yaml").read_text()


def test_the_result_says_what_was_run(finished: tuple[Path, Result, Told]) -> None:
    content = finished[1].content
    assert content["schema"] == 1
    assert content["status"] == "done"
    assert content["seeds"] == [0, 1]
    assert list(content["arms"]) == ["teacher", "no_kd", "uniform", "kd_aif"]
    assert content["main"] == "kd_aif"
    assert sum(content["data"]["counts"].values()) == 1797
    assert content["data"]["query_labels"] == "true labels"
    assert 200 < content["data"]["flipped_in_training"][0] < 500
    for arm in content["arms"].values():
        assert {"accuracy", "nll", "ece", "validation_accuracy"} <= arm["per_seed"].keys()
        assert all(len(values) == 2 for values in arm["per_seed"].values())
        assert all(0 <= value <= 1 for value in arm["per_seed"]["accuracy"])
    assert set(content["verdict"]["against"]) == {"no_kd", "uniform"}
    assert 0 <= content["weights"]["flipped_auc"][0] <= 1


def test_samples_are_the_training_rows_of_every_seed(finished: tuple[Path, Result, Told]) -> None:
    folder, found, _ = finished
    table = pq.read_table(folder / "samples.parquet").to_pydict()
    counts = found.content["data"]["counts"]
    assert len(table["index"]) == 2 * counts["train"]
    assert set(table["split"]) == {"train"}
    pairs = set(zip(table["seed"], table["index"], strict=True))
    assert len(pairs) == len(table["index"])
    wrong = [given != true for given, true in zip(table["label"], table["true_label"], strict=True)]
    assert sum(wrong) == sum(found.content["data"]["flipped_in_training"])
    assert all(0 <= weight <= 4 for weight in table["weight"])
    assert all(math.isfinite(score) for score in table["score"])
    assert len(set(table["mean_weight"])) > 100


def test_the_metrics_have_two_rows_an_epoch_and_no_clock(finished: tuple[Path, Result, Told]) -> None:
    rows = rows_of(finished[0])
    assert len(rows) == 2 * 4 * 2 * 2
    assert {row["arm"] for row in rows} == {"teacher", "no_kd", "uniform", "kd_aif"}
    assert [row["phase"] for row in rows[:4]] == ["train", "validation"] * 2
    assert all("second" not in key and "time" not in key for row in rows for key in row)
    assert all("flipped" in row["weights"] for row in rows if row["phase"] == "train" and row["arm"] == "kd_aif")


def test_progress_is_told_of_every_unit_and_step(finished: tuple[Path, Result, Told]) -> None:
    told = finished[2]
    assert told.total == len(told.units) == 8
    assert told.steps == [steps for _, steps in told.units]
    assert told.ended


def test_the_kept_student_gives_the_kept_seeds_figures(finished: tuple[Path, Result, Told]) -> None:
    folder, found, _ = finished
    from limbeck.experiment.seeded import seeded

    recipe = tiny()
    parts = recipe.build()
    data = seeded(recipe, parts, found.content["kept_seed"])
    student = parts.student.build(data.spec)
    student.load_state_dict(load_file(folder / "student.safetensors"))
    right = student.eval()(data.test.inputs).argmax(1) == data.test.targets
    place = found.content["seeds"].index(found.content["kept_seed"])
    per_seed = found.content["arms"]["kd_aif"]["per_seed"]
    assert float(right.double().mean()) == pytest.approx(per_seed["accuracy"][place])
    assert max(per_seed["validation_accuracy"]) == per_seed["validation_accuracy"][place]


def test_the_same_recipe_gives_the_same_bytes(finished: tuple[Path, Result, Told], tmp_path: Path) -> None:
    torch.manual_seed(99)
    run(tiny(), tmp_path / "again")
    assert marks(tmp_path / "again") == marks(finished[0])


def test_a_finished_run_is_not_run_again_by_resume(finished: tuple[Path, Result, Told]) -> None:
    folder, found, _ = finished
    before, told = marks(folder), Told()
    again = run(tiny(), folder, resume=True, progress=told)
    assert again.content == found.content
    assert told.units == []
    assert marks(folder) == before


def test_scores_of_the_kept_student_agree_with_the_samples(finished: tuple[Path, Result, Told], tmp_path: Path) -> None:
    folder, found, _ = finished
    count = score_run(folder, tmp_path / "scores.parquet").count
    table = pq.read_table(tmp_path / "scores.parquet").to_pydict()
    samples = pq.read_table(folder / "samples.parquet").to_pydict()
    own = [place for place, seed in enumerate(samples["seed"]) if seed == found.content["kept_seed"]]
    assert count == len(table["index"]) == len(own)
    assert table["index"] == [samples["index"][place] for place in own]
    assert table["label"] == [samples["label"][place] for place in own]
    assert table["true_label"] == [samples["true_label"][place] for place in own]
    torch.testing.assert_close(
        torch.tensor(table["score"]), torch.tensor([samples["score"][place] for place in own]), rtol=1e-3, atol=1e-5
    )
    assert sorted(table["rank"]) == list(range(1, count + 1))
    best = table["rank"].index(1)
    assert table["score"][best] == max(table["score"])
    score_run(folder, tmp_path / "scores.parquet", Identity(), replace=True)
    assert pq.read_table(tmp_path / "scores.parquet").to_pydict()["score"] != table["score"]


def test_scores_of_something_else_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is no finished run folder"):
        score_run(tmp_path, tmp_path / "scores.parquet")
    (tmp_path / "recipe.yaml").write_text("name: killed")
    with pytest.raises(UsageError, match="has not ended; go on with it first: limbeck run --resume "):
        score_run(tmp_path, tmp_path / "scores.parquet")


def test_scores_of_a_damaged_run(finished: tuple[Path, Result, Told], tmp_path: Path) -> None:
    for name in FILES:
        (tmp_path / name).write_bytes((finished[0] / name).read_bytes())
    (tmp_path / "student.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(RunError, match=r"the weights in .* cannot be read"):
        score_run(tmp_path, tmp_path / "scores.parquet")
    (tmp_path / "result.json").write_text("{")
    with pytest.raises(RunError, match=r"result\.json cannot be read"):
        score_run(tmp_path, tmp_path / "scores.parquet")


@pytest.mark.parametrize("epochs", [1, 2])
def test_training_that_diverges_is_one_sentence(tmp_path: Path, epochs: int) -> None:
    recipe = tiny(optimizer="SGD(lr=1e15, weight_decay=1e15)", batch_size=1000, seeds=1, epochs=epochs)
    with pytest.raises(RunError, match="learning rate") as caught:
        run(recipe, tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run" / "result.json").exists()


@pytest.mark.slow
def test_a_full_disk_ends_the_run_and_resume_ends_in_the_same_bytes(
    finished: tuple[Path, Result, Told], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, sync = tmp_path / "run", os.fsync
    for room in (1, 4, 9, 3):
        calls = iter(range(1000))

        def full(handle: int, room: int = room, calls: Any = calls) -> None:
            if next(calls) >= room:
                raise OSError(errno.ENOSPC, "No space left on device")
            sync(handle)

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(RunError, match="No space left on device"):
            run(tiny(), folder, resume=folder.exists())
        monkeypatch.undo()
        assert not (folder / "result.json").exists()
        assert not [path for path in folder.rglob("*") if path.name.endswith(".partial")]
    run(tiny(), folder, resume=True)
    assert marks(folder) == marks(finished[0])


def test_a_dry_run_trains_and_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Worker, "_train", None)
    found = dry_run(tiny())
    assert list(tmp_path.iterdir()) == []
    assert 0 < found.seconds < 600
    assert 10_000 < found.memory_bytes < 10**9
    words = str(found)
    assert "1,210 parameters" in words  # 64 x 16 + 16 + 16 x 10 + 10
    assert "610 parameters" in words
    assert "train, 50 query" in words
    assert "training labels are wrong" in words
    assert "2 seeds x (10 for the teacher + 3 x 10 for the students)" in words
    for changes, said in (({"batch_size": 5000}, "batch_size: 5000 is more"), ({"query": 1500}, "query=1500")):
        with pytest.raises(UsageError, match=said):
            dry_run(tiny(**changes))


SLOW = [pytest.param(step, marks=pytest.mark.slow) for step in ("Offline(epochs=1)", "Sequential()", "TeacherOnly()")]


@pytest.mark.parametrize("step", ["Simultaneous(feedback=0.5)", *SLOW])
def test_every_mechanism_runs_whole(tmp_path: Path, step: str) -> None:
    found = run(tiny(step=step, seeds=1, epochs=1, compare=["uniform"]), tmp_path / "run").content
    figures = found["arms"]["kd_aif"]["per_seed"]
    assert ("teacher_accuracy_after" in figures) == (not step.startswith("Offline"))
    assert {path.name for path in (tmp_path / "run").iterdir()} == FILES
    assert found["arms"]["kd_aif"]["title"].startswith("KD-AIF (")


@pytest.mark.slow
def test_every_arm_and_the_query_set_in_training(tmp_path: Path) -> None:
    arms = ["no_kd", "uniform", "query_in_training", "random_weights", "shuffled", "own_loss", "oracle"]
    found = run(tiny(seeds=1, epochs=1, compare=arms, query_in_training=True), tmp_path / "run").content
    assert list(found["arms"]) == ["teacher", *arms, "kd_aif"]
    splits = pq.read_table(tmp_path / "run" / "samples.parquet")["split"].to_pylist()
    assert splits.count("query") == 50
    assert splits.count("train") == found["data"]["counts"]["train"]
    assert len(SAME) == 8


def test_rivals_take_the_recipes_step_unless_it_lives_on_weights() -> None:
    def steps(**changes: str) -> dict[str, str]:
        recipe = tiny(compare=["no_kd", "uniform"], **changes)
        return {arm.name: type(arm.step()).__name__ for arm in arms_of(recipe, recipe.build())}

    assert steps(step="Bilevel()", objective="TGeoKD(T=4)") == {
        "no_kd": "Student",
        "uniform": "Bilevel",
        "kd_aif": "Bilevel",
    }
    for step in ("Offline()", "Simultaneous()", "Sequential()", "TeacherOnly()"):
        found = steps(step=step)
        assert found["no_kd"] == found["uniform"] == "Student"
        assert found["kd_aif"] == step[:-2]


@pytest.mark.slow
def test_figures_by_epoch_are_those_of_the_net_that_is_kept(tmp_path: Path) -> None:
    """SimKD's student never trains its own classifier: only the deployed net can be right."""
    recipe = tiny(objective="SimKD()", weighting="Uniform()", epochs=12, seeds=1, compare=["uniform"], batch_size=50)
    run(recipe, tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    last = [row for row in rows if row["arm"] == "main" and row["phase"] == "validation"][-1]
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert last["accuracy"] == pytest.approx(result["arms"]["main"]["per_seed"]["validation_accuracy"][0])
    assert last["accuracy"] > 0.5
