"""`limbeck init` writes a project that runs as it is, and touches nothing that is there."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from limbeck.cli import main


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_the_project_runs_at_once(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    assert main(["init", str(folder)]) == 0
    done = run(folder, "-m", "limbeck.cli", "run", "recipe.yaml", "--allow-python", "--size", "smoke", "--out", "out", "--quiet")
    assert done.returncode == 0, done.stderr
    result = json.loads((folder / "out" / "result.json").read_text())
    assert result["models"]["student"]["name"] == "Python('my_model:Small', width=8)"
    assert result["weights"]["flipped_auc"][0] is not None
    tested = run(folder, "test_my_term.py")
    assert tested.stdout == "the term keeps the contract\n", tested.stderr
    ruff = run(folder, "-m", "ruff", "check", "--isolated", "--line-length", "130", "--select", "E,F", ".")
    assert ruff.returncode == 0, ruff.stdout


def test_without_leave_its_code_is_not_run(tmp_path: Path) -> None:
    assert main(["init", str(tmp_path / "mine")]) == 0
    done = run(tmp_path / "mine", "-m", "limbeck.cli", "run", "recipe.yaml")
    assert done.returncode == 2
    assert "--allow-python" in done.stderr


@pytest.mark.parametrize("there", ["a file", "a folder that holds something"])
def test_what_is_there_is_left_alone(there: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = tmp_path / "mine"
    if there == "a file":
        place.write_text("mine")
    else:
        place.mkdir()
        (place / "thesis.tex").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    assert main(["init", str(place)]) == 2
    assert sorted(tmp_path.rglob("*")) == before
    assert capsys.readouterr().err.count("\n") == 1
