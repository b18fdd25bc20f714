"""`limbeck score` hands the right things on, and refuses in one sentence; what a scoring does has its own tests."""

import sys
from pathlib import Path
from types import ModuleType

import pytest

from limbeck.cli import main
from limbeck.experiment.progress import Progress
from limbeck.experiment.score_tables import Wanted
from limbeck.influence.curvature.ekfac import EKFAC
from limbeck.influence.curvature.identity import Identity
from limbeck.influence.curvature.solver import Solver

Call = dict[str, object]


class Told:
    """What a scoring gives back."""

    sentence = "Without its 5 most harmful of 100 samples all is well."

    def __init__(self, out: Path) -> None:
        self.files = {"scores": out}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Call]:
    seen: list[Call] = []
    stub = ModuleType("limbeck.experiment.scoring")

    def score_run(folder: Path, out: Path, solver: Solver, wanted: Wanted, *, progress: Progress, **options: bool) -> Told:
        progress.start(1)
        progress.unit("scoring", 10)
        progress.done()
        seen.append({"folder": folder, "out": out, "solver": solver, "wanted": wanted, **options})
        return Told(out)

    stub.__dict__["score_run"] = score_run
    monkeypatch.setitem(sys.modules, "limbeck.experiment.scoring", stub)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "result.json").write_text("{}")
    return seen


def test_a_plain_scoring(calls: list[Call], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", "here"]) == 0
    assert isinstance(calls[0].pop("solver"), EKFAC)
    assert calls[0] == {
        "folder": Path("here"),
        "out": Path("here/scores.parquet"),
        "wanted": Wanted(),
        "resume": False,
        "replace": False,
        "allow_python": False,
    }
    out, err = capsys.readouterr()
    assert out.splitlines() == [Told.sentence, "scores: here/scores.parquet"]
    assert err.startswith("[1/1] scoring: ")


def test_all_options(calls: list[Call], capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--self", "--explain", "3", "--groups", "label", "--matrix", "--tile", "7", "--keep", "int8", "--resume", "--quiet"]
    words += ["--remove", "5%", "--retrain"]
    assert main(["score", "here", "--solver", "Identity()", "--out", "x.parquet", *words]) == 0
    assert calls[0]["wanted"] == Wanted(
        matrix=True, own=True, explain=3, groups="label", tile=7, keep="int8", remove="5%", retrain=True
    )
    assert isinstance(calls[0]["solver"], Identity)
    assert (calls[0]["out"], calls[0]["resume"]) == (Path("x.parquet"), True)
    assert capsys.readouterr().err == ""


def test_of_several_processes_the_first_one_speaks(
    calls: list[Call], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "1")
    assert main(["score", "here"]) == 0
    assert len(calls) == 1
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["there"], "there is no finished run folder; make one with `limbeck run`"),
        (["here", "--solver", "EKFC()"], "did you mean 'EKFAC'?"),
        (["here", "--solver", "KD()"], "KD is a term; expected a solver"),
        (["here", "--explain", "-1"], "--explain must be a whole number of at least 0, got -1."),
        (["here", "--explain", "many"], "'--explain'"),
        (["here", "--groups", "labels"], "--groups must be one of label, true_label, domain, got 'labels'."),
        (["here", "--tile", "0"], "--tile must be a whole number of at least 1, got 0."),
        (["here", "--keep", "rank:0"], "rank must be"),
        (["here", "--resume", "--replace"], "leave one of them out."),
    ],
)
def test_wrong_words_are_one_sentence(calls: list[Call], words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("limbeck: ")
    assert err.count("\n") == 1
    assert said in err
    assert calls == []
