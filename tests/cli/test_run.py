"""`limbeck run` and `report` hand the right things on; what a run does has its own tests."""

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

import limbeck.experiment
from limbeck.cli import main
from limbeck.cli.run import free_folder
from limbeck.experiment.progress import Progress
from limbeck.experiment.recipe import Recipe

RESULT = {
    "schema": 1,
    "name": "digits",
    "status": "done",
    "seeds": [0],
    "data": {"name": "Digits()", "kind": "image", "classes": ["0", "1"], "counts": {"train": 2}},
    "arms": {"kd_aif": {"title": "KD-AIF", "per_seed": {"accuracy": [0.9]}}},
    "main": "kd_aif",
    "verdict": {
        "answer": "undecided",
        "sentence": "Undecided: one seed only.",
        "against": {},
        "comparisons": [],
        "margin": 0.005,
    },
}
Calls = list[tuple[object, ...]]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Calls:
    seen: Calls = []
    stub = ModuleType("limbeck.experiment.run")

    def run(recipe: Recipe, folder: Path, *, resume: bool, replace: bool, progress: Progress) -> None:
        seen.append((recipe, folder, resume, replace))
        folder.mkdir(parents=True, exist_ok=True)
        progress.start(1)
        progress.unit("teacher", 1)
        (folder / "recipe.yaml").write_text(recipe.resolved())
        (folder / "result.json").write_text(json.dumps(RESULT))
        progress.done()

    def dry_run(recipe: Recipe) -> str:
        seen.append(("dry", recipe))
        return "the plan"

    stub.__dict__.update(run=run, dry_run=dry_run)
    monkeypatch.setitem(sys.modules, "limbeck.experiment.run", stub)
    monkeypatch.setattr(limbeck.experiment, "run", stub, raising=False)
    monkeypatch.setattr("limbeck.report.render", lambda folder: folder / "report.html")
    monkeypatch.chdir(tmp_path)
    return seen


def test_run_says_the_verdict_and_where_the_report_is(calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "digits", "--set", "epochs=2", "--seeds", "1", "--out", "here", "--replace"]) == 0
    recipe, folder, resume, replace = calls[0]
    assert isinstance(recipe, Recipe)
    assert (recipe.epochs, recipe.seeds, folder, resume, replace) == (2, 1, Path("here"), False, True)
    out, err = capsys.readouterr()
    assert out.splitlines() == ["Undecided: one seed only.", "report: here/report.html"]
    assert err.startswith("[1/1] teacher: ")


def test_quiet_shows_no_progress(calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "digits", "--quiet"]) == 0
    assert capsys.readouterr().err == ""
    assert calls[0][1] == Path("runs/digits")


def test_a_second_run_gets_a_folder_of_its_own(calls: Calls) -> None:
    for _ in range(3):
        assert main(["run", "digits", "--quiet"]) == 0
    assert [str(call[1]) for call in calls] == ["runs/digits", "runs/digits-2", "runs/digits-3"]
    assert free_folder("other") == Path("runs/other")


def test_dry_run_trains_and_writes_nothing(calls: Calls, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["run", "digits", "--dry-run"]) == 0
    assert capsys.readouterr().out == "the plan\n"
    assert calls[0][0] == "dry"
    assert list(tmp_path.iterdir()) == []


def test_resume_takes_the_recipe_of_the_folder(calls: Calls) -> None:
    assert main(["run", "digits", "--set", "epochs=7", "--out", "here", "--quiet"]) == 0
    assert main(["run", "--resume", "here", "--quiet"]) == 0
    assert calls[0][0] == calls[1][0]
    assert calls[1][1:] == (Path("here"), True, False)


def test_report_renders_again(calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "here"]) == 0
    assert capsys.readouterr().out == "report: here/report.html\n"
    assert calls == []


@pytest.mark.parametrize(
    ("begun", "said"),
    [
        (True, "limbeck: stopped; go on with `limbeck run --resume there`."),
        (False, "limbeck: stopped before the run began; nothing was written."),
    ],
)
def test_ctrl_c_says_how_to_go_on(
    begun: bool, said: str, calls: Calls, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(recipe: Recipe, folder: Path, **_: object) -> None:
        folder.mkdir()
        (folder / "recipe.yaml").write_text(recipe.resolved() if begun else "an older run")
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules["limbeck.experiment.run"], "run", run)
    assert main(["run", "digits", "--out", "there", "--quiet"]) == 1
    assert capsys.readouterr().err.strip() == said
