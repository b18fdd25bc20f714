"""The command line: fast to start, and every mistake is one sentence with the right exit code."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from limbeck import __version__
from limbeck.cli import app, main
from limbeck.core.errors import RunError

HEAVY = ("torch", "numpy", "pydantic", "yaml", "rich", "sklearn", "pyarrow", "plotly", "jinja2", "accelerate")


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def start(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "limbeck.cli", *words], capture_output=True, text=True, check=False)


def test_help_starts_without_anything_heavy() -> None:
    code = f"import sys\nfrom limbeck.cli import main\nmain(['--help'])\nsys.exit(sum(n in sys.modules for n in {HEAVY}))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("command", ["run", "list", "report", "score", "doctor"])
def test_every_command_explains_itself_with_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    said = capsys.readouterr().out
    assert f"limbeck {command}" in said
    assert "Raises" not in said


def test_no_command_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert "Commands:" in capsys.readouterr().out
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"limbeck {__version__}\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["rnu"], "there is no command 'rnu'; did you mean 'run'?"),
        (["zzzz"], "there is no command 'zzzz'; `limbeck --help` shows all."),
        (["run"], "give a recipe"),
        (["run", "digts"], "there is no recipe 'digts'; did you mean 'digits'?"),
        (["run", "no/such.yaml"], "there is no recipe file no/such.yaml"),
        (["run", "digits", "--seedz", "3"], "No such option: --seedz"),
        (["run", "digits", "--seeds", "x"], "'--seeds'"),
        (["run", "digits", "--seeds", "0"], "seeds: must be at least 1, got 0."),
        (["run", "digits", "--size", "smok"], "did you mean 'smoke'?"),
        (["run", "digits", "--set", "epochs"], "write key=value"),
        (["run", "digits", "--set", "epoch=3"], "a recipe has no key 'epoch'; did you mean 'epochs'?"),
        (["run", "digits", "--set", "epochs=many"], "epochs: must be a whole number, got 'many'."),
        (["run", "digits", "--set", "objective=KDD()"], "objective: there is no term called 'KDD'; did you mean 'KD'?"),
        (["run", "digits", "--set", "objective=KD(temp=4)"], 'objective: KD has no argument "temp"; it takes T (default 4.0)'),
        (["run", "digits", "--set", "objective=KD(T='hot')"], "objective: KD's argument T takes a number, got 'hot'."),
        (["run", "digits", "--set", "student=Python('os:getcwd')"], "--allow-python"),
        (["run", "digits", "--set", "data=my.csv"], """'my.csv' is a file; name what reads it, Table("my.csv").\n"""),
        (["run", "digits", "--set", "weighting=null"], "got None; leave the line out for the default."),
        (["run", "--resume", "nowhere"], "--resume: nowhere is no run folder"),
        (["run", "digits", "--resume", "nowhere"], "leave the others out"),
        (["list", "trems"], "list: there is no 'trems'; did you mean 'terms'?"),
        (["report", "nowhere"], "there is no run folder nowhere"),
        (["report"], "Missing argument"),
        (["score", "nowhere"], "nowhere is no finished run folder"),
    ],
)
def test_wrong_words_are_one_sentence_and_leave_nothing(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("limbeck: ")
    assert err.count("\n") == 1
    assert said in err
    assert list(tmp_path.iterdir()) == []


def test_a_real_process_ends_with_the_code_and_no_traceback() -> None:
    ended = start("run", "digts")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("limbeck: there is no recipe 'digts'")
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (RunError("the run failed."), 1, "limbeck: the run failed."),
        (KeyboardInterrupt(), 1, "--resume FOLDER"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "x"), 1, "no space left on the disk"),
        (PermissionError(errno.EACCES, "Permission denied", "x"), 1, "limbeck: Permission denied (x)."),
        (MemoryError(), 1, "memory is full"),
    ],
)
def test_failures_are_one_sentence(
    error: BaseException, code: int, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("limbeck.cli.listing.lines_of", fail)
    assert main(["list", "terms"]) == code
    err = capsys.readouterr().err.strip()
    assert said in err
    assert "\n" not in err


def test_a_fault_of_the_program_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: str) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("limbeck.cli.listing.lines_of", fail)
    with pytest.raises(ZeroDivisionError):
        main(["list", "terms"])


def test_every_command_has_its_file() -> None:
    assert set(app.COMMANDS) == {"run", "list", "report", "score", "doctor", "init", "cache"}
