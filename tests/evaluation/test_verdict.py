"""The paired comparison and its words: numbers by hand, scipy as oracle, honest answers at the edges."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from limbeck.core.errors import UsageError
from limbeck.evaluation.verdict import Answer, Comparison, compare, judge, overall, sentence

ACCURACIES = st.lists(st.tuples(st.integers(0, 539), st.integers(0, 539)), min_size=2, max_size=8)


def made(answer: Answer, effect: float = 0.02, low: float | None = None, high: float | None = None, seeds: int = 5) -> Comparison:
    low, high = (effect - 0.01 if low is None else low), (effect + 0.01 if high is None else high)
    return Comparison(effect, low, high, 0.01, f"paired t-test, {seeds} seeds", answer, seeds)


def test_golden_numbers() -> None:
    # Differences 1, 2, 3: mean 2, standard error 1 / sqrt(3), t = sqrt(12) on 2 degrees of freedom. For these
    # p = 1 - t / sqrt(t^2 + 2), and the 97.5 % quantile is 0.95 sqrt(2 / (1 - 0.95^2)).
    result = compare([11.0, 12.0, 13.0], [10.0, 10.0, 10.0])
    half = 0.95 * math.sqrt(2 / (1 - 0.95**2)) / math.sqrt(3)
    assert result.effect == 2
    assert result.low == pytest.approx(2 - half)
    assert result.high == pytest.approx(2 + half)
    assert result.p == pytest.approx(1 - math.sqrt(12 / 14))
    assert (result.test, result.seeds, result.answer) == ("paired t-test, 3 seeds", 3, "undecided")


@settings(deadline=None, max_examples=30)
@given(pairs=ACCURACIES)
def test_equals_scipy(pairs: list[tuple[int, int]]) -> None:
    ours, theirs = ([pair[side] / 539 for pair in pairs] for side in (0, 1))
    result = compare(ours, theirs)
    if len({own - other for own, other in pairs}) == 1:
        assert (result.low, result.high) == (None, None)
        assert result.effect == pytest.approx((pairs[0][0] - pairs[0][1]) / 539)
        return
    differences = np.subtract(ours, theirs)
    expected = stats.t.interval(0.95, len(pairs) - 1, differences.mean(), stats.sem(differences))
    assert (result.low, result.high) == pytest.approx(expected)
    assert result.p == pytest.approx(stats.ttest_1samp(differences, 0).pvalue)
    assert result.effect == pytest.approx(differences.mean())


@settings(deadline=None, max_examples=25)
@given(pairs=ACCURACIES)
def test_swapping_the_sides_turns_the_sign(pairs: list[tuple[int, int]]) -> None:
    ours, theirs = ([pair[side] / 539 for pair in pairs] for side in (0, 1))
    there, back = compare(ours, theirs), compare(theirs, ours)
    assert there.effect == -back.effect
    if there.low is None:
        assert (there.high, back.low, back.high) == (None, None, None)
    else:
        assert (there.low, there.high) == pytest.approx((-back.high, -back.low), abs=1e-12)
    assert there.p == pytest.approx(back.p)
    assert not (there.answer == "better" and back.answer == "better")


@settings(deadline=None, max_examples=25)
@given(pairs=ACCURACIES, margin=st.floats(0, 0.05))
def test_answer_follows_from_the_interval(pairs: list[tuple[int, int]], margin: float) -> None:
    result = compare([own / 539 for own, _ in pairs], [other / 539 for _, other in pairs], margin)
    if result.low is None or result.high is None:
        assert len(pairs) >= 6 or result.answer == "undecided"
        return
    assert result.low <= result.effect <= result.high
    if result.low > 0:
        assert result.answer == "better"
    elif result.high < margin:
        assert result.answer == "not better"
    else:
        assert result.answer == "undecided"


def test_a_small_sure_gain_is_better_and_the_margin_only_excludes() -> None:
    theirs = [0.90, 0.91, 0.92]
    assert (
        compare([value + gain for value, gain in zip(theirs, (0.0010, 0.0011, 0.0012), strict=True)], theirs).answer == "better"
    )
    same = [value + gain for value, gain in zip(theirs, (0.0005, -0.0005, 0.0), strict=True)]
    assert compare(same, theirs, margin=0.005).answer == "not better"
    assert compare(same, theirs, margin=0.0).answer == "undecided"


def test_one_seed_decides_nothing() -> None:
    result = compare([0.9], [0.5])
    assert result == Comparison(
        0.4, None, None, None, "none, 1 seed", "undecided", 1, "one seed cannot tell an effect from chance"
    )


@pytest.mark.parametrize(
    "ours, theirs, effect, p, answer",
    [
        ([0.9, 0.8, 0.7], [0.8, 0.7, 0.6], 0.1, 0.25, "undecided"),  # equal up to rounding only
        ([0.8, 0.7, 0.6], [0.9, 0.8, 0.7], -0.1, 0.25, "undecided"),
        ([0.5, 0.6, 0.7], [0.5, 0.6, 0.7], 0, 1, "undecided"),
        ([0.9, 0.8], [0.8, 0.7], 0.1, 0.5, "undecided"),
        ([0.9, 0.8], [0.9, 0.8], 0, 1, "undecided"),
        ([0.9] * 6, [0.8] * 6, 0.1, 0.03125, "better"),
        ([0.8] * 6, [0.9] * 6, -0.1, 0.03125, "not better"),
        ([0.9] * 6, [0.9] * 6, 0, 1, "not better"),
    ],
)
def test_equal_differences(ours: Sequence[float], theirs: Sequence[float], effect: float, p: float, answer: Answer) -> None:
    result = compare(ours, theirs)
    assert result.effect == pytest.approx(effect)
    assert (result.low, result.high) == (None, None)
    assert result.p == p
    assert result.answer == answer
    assert "all differences are equal" in result.reason


def test_equal_without_a_margin_is_undecided() -> None:
    assert compare([0.5, 0.6, 0.7], [0.5, 0.6, 0.7], margin=0.0).answer == "undecided"


@pytest.mark.parametrize(
    "ours, theirs, margin, message",
    [
        ([], [], 0.005, "one pair of values per seed, got 0 and 0"),
        ([0.5], [0.5, 0.6], 0.005, "got 1 and 2"),
        ([0.5, math.nan], [0.5, 0.6], 0.005, "NaN or infinity"),
        ([0.5, 0.6], [0.5, math.inf], 0.005, "NaN or infinity"),
        ([0.5, 0.6], [0.5, 0.6], -0.1, "margin must be 0 or above"),
    ],
)
def test_refuses_what_cannot_be_compared(ours: list[float], theirs: list[float], margin: float, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        compare(ours, theirs, margin)


@pytest.mark.parametrize(
    "answers, expected",
    [
        ({"uniform": "better", "no_kd": "better", "random_weights": "better", "query_in_training": "better"}, "better"),
        ({"uniform": "better"}, "better"),
        ({"uniform": "better", "query_in_training": "undecided"}, "undecided"),
        ({"uniform": "better", "query_in_training": "not better"}, "not better"),
        ({"uniform": "undecided", "no_kd": "not better"}, "not better"),
        ({"uniform": "better", "oracle": "not better"}, "better"),  # the oracle is context, not a rival
        ({"oracle": "better"}, "undecided"),
        ({}, "undecided"),
    ],
    ids=str,
)
def test_overall(answers: dict[str, Answer], expected: Answer) -> None:
    assert overall({name: made(answer) for name, answer in answers.items()}) == expected


def test_sentence_of_a_success() -> None:
    comparisons = {
        "query_in_training": made("better", 0.013, 0.004, 0.022),
        "uniform": made("better", 0.037, 0.029, 0.045),
        "oracle": made("not better"),
    }
    assert sentence(comparisons) == (
        "KD-AIF is better than plain KD by 3.7 points of test accuracy (95 % interval 2.9 to 4.5, paired t-test over 5 seeds), "
        "and better than plain KD with the query set in training by 1.3 (0.4 to 2.2)."
    )


def test_sentence_of_a_mixed_result() -> None:
    comparisons = {
        "no_kd": made("not better", -0.02, -0.03, -0.01),
        "uniform": made("undecided", 0.003, -0.0104, 0.016),
        "random_weights": made("not better", -0.0001, -0.004, 0.004),
    }
    assert sentence(comparisons, title="KD with own weights") == (
        "KD with own weights is not clearly better than plain KD: 0.3 points of test accuracy (95 % interval -1.0 to 1.6, "
        "paired t-test over 5 seeds), not better than KD with random weights: 0.0 (-0.4 to 0.4), "
        "and worse than the student without distillation by 2.0 (1.0 to 3.0)."
    )


def test_sentence_of_one_rival() -> None:
    assert sentence({"no_kd": made("better", 0.02, 0.01, 0.03)}) == (
        "KD-AIF is better than the student without distillation by 2.0 points of test accuracy "
        "(95 % interval 1.0 to 3.0, paired t-test over 5 seeds)."
    )


def test_sentence_of_one_seed() -> None:
    verdict = judge([0.9], {"no_kd": [0.95], "uniform": [0.87]})
    assert verdict.answer == "undecided"
    assert verdict.sentence == (
        "Undecided, because one seed cannot tell an effect from chance: KD-AIF is 3.0 points of test accuracy above plain KD, "
        "and 5.0 below the student without distillation."
    )


def test_sentence_of_two_equal_differences() -> None:
    assert sentence({"uniform": compare([0.9, 0.8], [0.8, 0.7])}) == (
        "KD-AIF is not clearly better than plain KD: 10.0 points of test accuracy on every seed (sign-flip test, 2 seeds)."
    )


def test_sentence_without_a_rival() -> None:
    assert sentence({}) == "Whether KD-AIF is better is undecided, because it was compared with nothing."


def test_an_interval_ends_where_no_difference_can_be_larger() -> None:
    ours, theirs = [0.9, 0.5], [0.5, 0.45]  # one degree of freedom: 12.7 standard errors
    free, bound = compare(ours, theirs), compare(ours, theirs, limit=1.0)
    assert (free.low, free.high) != (-1.0, 1.0)
    assert (bound.low, bound.high) == (-1.0, 1.0)
    assert judge(ours, {"uniform": theirs}).comparisons["uniform"] == bound
    assert (bound.effect, bound.p, bound.answer) == (free.effect, free.p, free.answer)


def test_judge_compares_all_and_lets_the_rivals_decide() -> None:
    ours = [0.90, 0.91, 0.92, 0.905]
    rivals = {"uniform": [0.86, 0.88, 0.87, 0.865], "oracle": [0.94, 0.95, 0.97, 0.95]}
    verdict = judge(ours, rivals, margin=0.01)
    assert verdict.answer == "better"
    assert verdict.comparisons == {name: compare(ours, theirs, 0.01) for name, theirs in rivals.items()}
    assert verdict.comparisons["oracle"].answer == "not better"
    assert verdict.sentence == sentence(verdict.comparisons)
    assert verdict.margin == 0.01


@settings(deadline=None, max_examples=25)
@given(
    answers=st.lists(st.sampled_from(["better", "not better", "undecided"]), min_size=4, max_size=4), effect=st.floats(-0.2, 0.2)
)
def test_every_sentence_is_one_sentence_and_names_every_rival(answers: list[Answer], effect: float) -> None:
    names = ["no_kd", "uniform", "query_in_training", "random_weights"]
    text = sentence({name: made(answer, effect) for name, answer in zip(names, answers, strict=True)})
    for words in (
        "plain KD",
        "plain KD with the query set in training",
        "KD with random weights",
        "the student without distillation",
    ):
        assert words in text
    assert text.endswith(").")
    assert "-0.0" not in text.replace("-0.0 to", "")
