"""How far a run is, on a terminal as a bar with the time left, elsewhere as one line per finished unit."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO, final

from limbeck.experiment.progress import Progress, Silent


class Share:
    """How much of a run is done, all units taken as equally long.

    Args:
        clock: Seconds; handed in by tests.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.total, self.finished = 1, 0
        self.name, self.steps, self.at = "", 0, 0
        self.began = self.unit_began = clock()

    def start(self, total_units: int) -> None:
        """The run begins."""
        self.total, self.began = max(total_units, 1), self.clock()

    def unit(self, name: str, steps: int) -> None:
        """A unit begins."""
        self.finished += bool(self.name)
        self.name, self.steps, self.at, self.unit_began = name, max(steps, 1), 0, self.clock()

    def advance(self, steps: int) -> None:
        """Steps of the unit are done."""
        self.at = min(self.at + steps, self.steps)

    @property
    def part(self) -> float:
        """What is done, in [0, 1]."""
        within = self.at / self.steps if self.steps else 0.0
        return min((self.finished + within) / self.total, 1.0)

    @property
    def left(self) -> float | None:
        """Seconds left, or None while too little is known."""
        spent = self.clock() - self.began
        return spent / self.part - spent if self.part > 0.005 else None


def in_words(seconds: float | None) -> str:
    """A time for people: `45 s left`, `3 min left`."""
    if seconds is None:
        return "time left not known yet"
    if seconds < 90:
        return f"{max(seconds, 0):.0f} s left"
    return f"{seconds / 60:.0f} min left" if seconds < 5400 else f"{seconds / 3600:.1f} h left"


@final
class Lines:
    """One line per finished unit."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self.stream, self.share = stream, Share(clock)

    def start(self, total_units: int) -> None:
        """The run begins."""
        self.share.start(total_units)

    def unit(self, name: str, steps: int) -> None:
        """A line for the unit before."""
        self._finish()
        self.share.unit(name, steps)

    def advance(self, steps: int) -> None:
        """Counts."""
        self.share.advance(steps)

    def done(self) -> None:
        """A line for the last unit."""
        self._finish()

    def _finish(self) -> None:
        share = self.share
        if share.name:
            share.at = share.steps
            took = share.clock() - share.unit_began
            words = f"[{share.finished + 1}/{share.total}] {share.name}: {took:.1f} s, {in_words(share.left)}"
            print(words, file=self.stream, flush=True)


@final
class RichProgress:
    """A bar over the whole run with what is running and the time left."""

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bar

        self.share = Share()
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}", markup=False),
        )
        self.bar = Bar(*columns, console=Console(file=stream), refresh_per_second=4)
        self.task = self.bar.add_task("starting", total=1.0, left=in_words(None))

    def start(self, total_units: int) -> None:
        """The run begins."""
        self.share.start(total_units)

    def unit(self, name: str, steps: int) -> None:
        """Show what is running."""
        self.share.unit(name, steps)
        self._show(f"{self.share.finished + 1}/{self.share.total} {name}")

    def advance(self, steps: int) -> None:
        """Move the bar."""
        self.share.advance(steps)
        self._show(f"{self.share.finished + 1}/{self.share.total} {self.share.name}")

    def done(self) -> None:
        """The bar is full."""
        self.bar.update(self.task, completed=1.0, description="done", left="")

    def _show(self, words: str) -> None:
        self.bar.update(self.task, completed=self.share.part, description=words, left=in_words(self.share.left))


@contextmanager
def progress_for(stream: TextIO, *, quiet: bool) -> Iterator[Progress]:
    """What fits the stream: a bar on a terminal, lines elsewhere, nothing where it should be quiet."""
    if quiet:
        yield Silent()
    elif stream.isatty():
        shown = RichProgress(stream)
        with shown.bar:
            yield shown
    else:
        yield Lines(stream)
