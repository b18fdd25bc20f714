"""What a run shows of how far it is."""

import io

import pytest

from limbeck.cli.progress import Lines, RichProgress, Share, in_words, progress_for
from limbeck.experiment.progress import Progress, Silent


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_share_counts_units_and_parts_of_units() -> None:
    clock = Clock()
    share = Share(clock)
    share.start(4)
    assert (share.part, share.left) == (0, None)
    share.unit("a", 10)
    share.advance(5)
    assert share.part == 0.125
    share.unit("b", 2)
    clock.now = 10.0
    share.advance(1)
    share.advance(5)
    assert share.part == 0.5
    assert share.left == 10


def test_elsewhere_one_line_per_finished_unit() -> None:
    clock, stream = Clock(), io.StringIO()
    lines = Lines(stream, clock)
    lines.start(2)
    lines.unit("seed 0: teacher", 10)
    clock.now = 3.0
    lines.advance(10)
    lines.unit("seed 0: student", 10)
    assert stream.getvalue() == "[1/2] seed 0: teacher: 3.0 s, 3 s left\n"
    clock.now = 5.0
    lines.done()
    assert stream.getvalue().splitlines()[1] == "[2/2] seed 0: student: 2.0 s, 0 s left"


def test_a_terminal_shows_what_runs_and_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    stream = Terminal()
    with progress_for(stream, quiet=False) as progress:
        assert isinstance(progress, RichProgress)
        progress.start(3)
        progress.unit("seed 0: [plain] KD", 4)
        progress.advance(2)
        progress.bar.refresh()
        assert "1/3 seed 0: [plain] KD" in stream.getvalue()
        assert "left" in stream.getvalue()
        progress.done()
    assert progress.bar.finished


def test_the_stream_decides() -> None:
    with progress_for(io.StringIO(), quiet=False) as progress:
        assert isinstance(progress, Lines)
    with progress_for(Terminal(), quiet=True) as progress:
        assert isinstance(progress, Silent)
        drive(progress)


def drive(progress: Progress) -> None:
    progress.start(1)
    progress.unit("x", 1)
    progress.advance(1)
    progress.done()


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(None, "time left not known yet"), (12.4, "12 s left"), (200, "3 min left"), (7200, "2.0 h left"), (-1, "0 s left")],
)
def test_times_are_for_people(seconds: float | None, words: str) -> None:
    assert in_words(seconds) == words
