"""Whether it worked: paired statistics over seeds, and one sentence in plain words. Knows nothing of runs and files."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from scipy.stats import ttest_rel

from limbeck.core.checks import not_negative
from limbeck.core.errors import UsageError

Answer = Literal["better", "not better", "undecided"]

RIVALS = {
    "uniform": "plain KD",
    "query_in_training": "plain KD with the query set in training",
    "random_weights": "KD with random weights",
    "no_kd": "the student without distillation",
    "fixed_mixture": "the same without the mixture of domains",
}
"""The arms that the verdict is about, in the order in which the sentence names them. Other arms are context."""


@dataclass(frozen=True)
class Metric:
    """What arms are compared in.

    Args:
        name: As in result.json.
        unit: What stands behind a number in the sentence.
        margin: Smallest gain that is worth having, in the unit of the values.
        sign: 1 where larger is better, -1 where smaller is.
        scale: What values are multiplied with when they are printed.
        digits: Behind the point, when they are.
        limit: The largest difference that there can be.
    """

    name: str
    unit: str
    margin: float
    sign: int
    scale: float
    digits: int
    limit: float = math.inf

    def spoken(self, value: float) -> str:
        """A difference as it is printed; never `-0.0`."""
        return f"{round(self.scale * value, self.digits) + 0.0:.{self.digits}f}"


ACCURACY = Metric("accuracy", " points of test accuracy", margin=0.005, sign=1, scale=100, digits=1, limit=1.0)
NLL = Metric("nll", " nats of test loss a token", margin=0.01, sign=-1, scale=1, digits=3)
"""For language; the margin is about 1 % of the perplexity."""


@dataclass(frozen=True)
class Comparison:
    """One arm against another over paired seeds. All values in the unit of the metric (accuracy: fractions), above 0 for a gain.

    Args:
        effect: Mean over seeds of ours - theirs, or of theirs - ours where smaller is better.
        low: Lower end of the 95 % interval of the effect, or None where there is none (one seed).
        high: Upper end, or None.
        p: Two-sided p-value of "no difference", or None.
        test: What was done, in words: "paired t-test, 5 seeds".
        answer: "better", "not better" or "undecided".
        seeds: Number of pairs.
        reason: Why nothing could be decided, or what is peculiar; empty otherwise.
    """

    effect: float
    low: float | None
    high: float | None
    p: float | None
    test: str
    answer: Answer
    seeds: int
    reason: str = ""


@dataclass(frozen=True)
class Verdict:
    """The whole answer.

    Args:
        answer: Better than every rival that ran, not better than at least one, or undecided.
        sentence: The same in one sentence for people.
        comparisons: Every comparison by the rival's name.
        margin: The gain below which a difference does not count.
    """

    answer: Answer
    sentence: str
    comparisons: Mapping[str, Comparison]
    margin: float


def compare(ours: Sequence[float], theirs: Sequence[float], margin: float = 0.005, limit: float = math.inf) -> Comparison:
    """Paired t-test of ours against theirs, one pair per seed; larger is better.

    "better": the 95 % interval lies above 0. "not better": it lies below +margin, so that a gain worth having is excluded.
    "undecided": neither. One seed has no interval and is undecided. Where all differences are equal there is no spread for a
    t-test: p is then that of the exact sign-flip test, 2^(1 - n), there is no interval, and below six seeds it is undecided.

    Args:
        ours: One value per seed.
        theirs: The rival's value on the same seeds in the same order.
        margin: Smallest gain that is worth having, in the unit of the values, 0 or above.
        limit: The largest difference that there can be, > 0; the interval ends there.

    Raises:
        UsageError: The lists are empty, differ in length or hold NaN or infinity.

    Reference: Student, 1908, "The probable error of a mean"; scipy.stats.ttest_rel.
    """
    not_negative(margin, "compare: margin")
    if len(ours) != len(theirs) or not ours:
        raise UsageError(
            f"compare: expected one pair of values per seed, got {len(ours)} and {len(theirs)}; run both arms on the same seeds."
        )
    if not all(math.isfinite(value) for value in (*ours, *theirs)):
        raise UsageError("compare: every value must be a finite number, but there is NaN or infinity; a run has diverged.")
    differences = [own - other for own, other in zip(ours, theirs, strict=True)]
    if len(differences) == 1:
        reason = "one seed cannot tell an effect from chance"
        return Comparison(differences[0], None, None, None, "none, 1 seed", "undecided", 1, reason)
    if _all_equal(differences):
        return _without_spread(differences, margin)
    result = ttest_rel(ours, theirs)
    interval = result.confidence_interval(0.95)
    low, high = max(float(interval.low), -limit), min(float(interval.high), limit)
    seeds = len(differences)
    effect = math.fsum(differences) / seeds
    return Comparison(effect, low, high, float(result.pvalue), f"paired t-test, {seeds} seeds", _answer(low, high, margin), seeds)


def overall(comparisons: Mapping[str, Comparison]) -> Answer:
    """The answer over all rivals of `RIVALS` that ran; other names are left out of account.

    "better" only when better than every one: such a claim needs no correction for several tests, since each of them must
    hold (intersection-union test: Berger, 1982). "not better" when not better than any one of them. Otherwise, and when no
    rival ran, "undecided".
    """
    answers = {comparison.answer for name, comparison in comparisons.items() if name in RIVALS}
    if "not better" in answers:
        return "not better"
    return "better" if answers == {"better"} else "undecided"


def sentence(comparisons: Mapping[str, Comparison], *, title: str = "KD-AIF", metric: Metric = ACCURACY) -> str:
    """The verdict in one sentence, from the comparisons with the rivals of `RIVALS` that ran.

    Args:
        comparisons: By the rival's name.
        title: What the judged method is called.
        metric: What was compared.
    """
    ran = [(words, comparisons[name]) for name, words in RIVALS.items() if name in comparisons]
    if not ran:
        return f"Whether {title} is better is undecided, because it was compared with nothing."
    if all(comparison.seeds == 1 for _, comparison in ran):
        parts = [_one_seed(words, comparison, metric, first=number == 0) for number, (words, comparison) in enumerate(ran)]
        return f"Undecided, because one seed cannot tell an effect from chance: {title} is {_listed(parts)}."
    parts = [_clause(words, comparison, metric, first=number == 0) for number, (words, comparison) in enumerate(ran)]
    return f"{title} is {_listed(parts)}."


def judge(
    ours: Sequence[float],
    rivals: Mapping[str, Sequence[float]],
    margin: float | None = None,
    *,
    title: str = "KD-AIF",
    metric: Metric = ACCURACY,
) -> Verdict:
    """Compare test figures with every rival's, and conclude.

    Args:
        ours: The metric on the test split, per seed.
        rivals: The same of every other arm by its name; all are compared, those of `RIVALS` decide.
        margin: Smallest gain that is worth having; the metric's own where none is named.
        title: What the judged method is called.
        metric: What is compared.
    """
    margin = metric.margin if margin is None else margin
    own = [metric.sign * value for value in ours]
    comparisons = {
        name: compare(own, [metric.sign * value for value in theirs], margin, metric.limit) for name, theirs in rivals.items()
    }
    return Verdict(overall(comparisons), sentence(comparisons, title=title, metric=metric), comparisons, margin)


def _all_equal(differences: Sequence[float]) -> bool:
    # 0.9 - 0.8 and 0.8 - 0.7 differ by rounding only; a t-test would make an enormous t of that.
    return max(differences) - min(differences) <= 1e-12 * max(1.0, *map(abs, differences))


def _without_spread(differences: Sequence[float], margin: float) -> Comparison:
    seeds = len(differences)
    effect = math.fsum(differences) / seeds
    effect = 0.0 if abs(effect) <= 1e-12 else effect
    p = 1.0 if effect == 0 else 2.0 ** (1 - seeds)
    answer = _answer(effect, effect, margin) if p < 0.05 or seeds >= 6 else "undecided"
    reason = "all differences are equal" + ("" if seeds >= 6 else ", which fewer than six seeds can show by chance")
    return Comparison(effect, None, None, p, f"sign-flip test, {seeds} seeds", answer, seeds, reason)


def _answer(low: float, high: float, margin: float) -> Answer:
    if low > 0:
        return "better"
    return "not better" if high < margin else "undecided"


def _clause(words: str, comparison: Comparison, metric: Metric, *, first: bool) -> str:
    """What is said of one rival; the first clause also names unit, interval and test."""
    effect, low, high = comparison.effect, comparison.low, comparison.high
    unit = metric.unit if first else ""
    if low is None or high is None:
        if comparison.seeds == 1:
            return f"not comparable with {words} on one seed"
        word = {"better": "better than", "not better": "not better than", "undecided": "not clearly better than"}[
            comparison.answer
        ]
        return f"{word} {words}: {metric.spoken(effect)}{unit} on every seed ({comparison.test})"
    worse = high < 0
    if worse:
        effect, low, high = -effect, -high, -low
    interval = f"{metric.spoken(low)} to {metric.spoken(high)}"
    interval = f"95 % interval {interval}, paired t-test over {comparison.seeds} seeds" if first else interval
    if comparison.answer == "undecided" and comparison.reason:
        interval = comparison.reason
    if worse or comparison.answer == "better":
        return f"{'worse' if worse else 'better'} than {words} by {metric.spoken(effect)}{unit} ({interval})"
    word = "not better" if comparison.answer == "not better" else "not clearly better"
    return f"{word} than {words}: {metric.spoken(effect)}{unit} ({interval})"


def _one_seed(words: str, comparison: Comparison, metric: Metric, *, first: bool) -> str:
    side = "below" if metric.sign * comparison.effect < 0 else "above"
    return f"{metric.spoken(abs(comparison.effect))}{metric.unit if first else ''} {side} {words}"


def _listed(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])}, and {parts[-1]}"
