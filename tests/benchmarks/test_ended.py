"""How a benchmark ends."""

import sys
from pathlib import Path

import pytest

from limbeck.core.errors import RunError, UsageError

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from ended import ended


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (UsageError("there is no recipe file."), 2, "there is no recipe file."),
        (RunError("the loss became NaN."), 1, "the loss became NaN."),
        (FileNotFoundError(2, "No such file", "mnist.npz"), 2, "there is no mnist.npz."),
    ],
)
def test_a_mistake_is_one_sentence_and_a_code(
    error: Exception, code: int, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def main() -> None:
        raise error

    monkeypatch.setattr(sys, "argv", ["benchmarks/settings.py"])
    assert ended(main) == code
    assert capsys.readouterr().err == f"settings.py: {said}\n"
    assert ended(lambda: None) == 0
