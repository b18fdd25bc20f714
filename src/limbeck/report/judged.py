"""What a run is judged by, as the page writes it: accuracy in points, or for language the loss of a token in nats."""

from collections.abc import Sequence
from dataclasses import dataclass

from limbeck.report.reading import Run
from limbeck.report.schema import Comparison, PerSeed
from limbeck.report.statistics import differences
from limbeck.report.wording import MINUS, number, points, points_range

CEILING = "oracle"
"""The arm that knows the wrong labels: a bound, no rival."""


@dataclass(frozen=True)
class Judged:
    """A metric's words.

    Args:
        metric: As in result.json.
        what: What differs.
        unit: In which unit.
        scale: What a difference is multiplied with on an axis.
        sign: 1 where larger is better, -1 where smaller is; differences are gains either way.
        digits: Of a margin on that axis.
    """

    metric: str
    what: str
    unit: str
    scale: float
    sign: int
    digits: int

    def gain(self, value: float | None) -> str:
        """A difference, above 0 for better."""
        if self.metric == "accuracy":
            return points(value)
        return number(value) if value is None or value < 0 else f"+{number(value)}"

    def ends(self, comparison: Comparison) -> str:
        """A comparison's 95 % interval, empty where it has none."""
        if self.metric == "accuracy":
            return points_range(comparison)
        return "" if comparison.low is None else f"{self.gain(comparison.low)} to {self.gain(comparison.high)}"

    def seeds(self, ours: PerSeed, theirs: PerSeed) -> list[float]:
        """The gain of every seed on the axis."""
        own, other = (part.accuracy if self.metric == "accuracy" else part.nll for part in (ours, theirs))
        return [self.scale * self.sign * value for value in differences(own, other)]


ACCURACY = Judged("accuracy", "test accuracy", "percentage points", 100.0, 1, 1)
LOSS = Judged("nll", "test loss", "nats a token, above 0 for a lower loss", 1.0, -1, 3)


def judged_by(run: Run) -> Judged:
    """What this run is judged by."""
    return LOSS if is_language(run) else ACCURACY


def is_language(run: Run) -> bool:
    """Whether every token is a label, so that figures are of tokens."""
    return run.result.data.kind == "language"


def share_of_tokens(value: float) -> str:
    """How many of a row's counted tokens are as they were given."""
    return f"{number(100 * value, 0)} % of tokens".replace("-", MINUS)


def said(comparison: Comparison) -> str:
    """A comparison's answer in a word; to be below a ceiling is no defeat."""
    return "ceiling" if comparison.against == CEILING else comparison.answer


def compared(run: Run, comparisons: Sequence[Comparison]) -> list[Comparison]:
    """The comparisons that the run is judged by."""
    return [one for one in comparisons if one.metric == judged_by(run).metric]
