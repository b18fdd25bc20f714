"""The guard: lets healthy runs be, stops those that their weights drive astray. Sequences are of recorded runs on digits."""

import math

import pytest

from limbeck.weighting.guard import Guard
from support.makers import normal

# Query losses at looks 20 steps apart. 40 % flips, ten classes or two; final accuracy behind each.
HEALTHY = {
    "EK-FAC, gain 1, ten classes, 0.90": (
        10,
        [2.30, 2.01, 1.29, 0.87, 0.73, 0.61, 0.60, 0.54, 0.53, 0.56, 0.46, 0.52, 0.48, 0.59, 0.51],
    ),
    "EK-FAC, gain 2, stale, 0.91": (
        10,
        [2.30, 1.96, 1.31, 1.26, 0.72, 1.04, 0.82, 0.56, 0.94, 0.79, 0.85, 0.91, 0.96, 0.70, 0.55],
    ),
    "EK-FAC, gain 1, two classes, 0.83": (
        2,
        [0.67, 0.50, 0.55, 0.48, 0.37, 0.40, 0.37, 0.49, 0.32, 0.37, 0.30, 0.41, 0.33, 0.49, 0.59],
    ),
    "no flips, 0.95": (10, [2.29, 1.2, 0.5, 0.31, 0.22, 0.17, 0.15, 0.13, 0.12, 0.11, 0.10, 0.10, 0.09, 0.09, 0.10]),
}
COLLAPSES = {
    "EK-FAC, gain 4, q 10 old, 0.10": (
        10,
        [
            2.30,
            1.90,
            1.56,
            1.56,
            1.35,
            1.57,
            1.38,
            1.74,
            1.33,
            1.54,
            1.76,
            2.12,
            1.80,
            1.88,
            1.91,
            1.68,
            2.23,
            2.11,
            2.31,
            2.30,
            2.29,
        ],
    ),
    "EK-FAC, gain 8, q 20 old, 0.10": (
        10,
        [
            2.3,
            1.9,
            1.75,
            1.77,
            1.52,
            1.12,
            1.54,
            1.45,
            1.61,
            1.57,
            1.48,
            1.25,
            1.63,
            1.59,
            1.24,
            1.33,
            1.44,
            1.55,
            1.78,
            1.79,
            2.59,
            2.32,
            2.35,
            2.3,
            2.31,
            2.26,
        ],
    ),
    "identity, gain 2, q 10 old, 0.09": (10, [2.30, 2.13, 2.08, 2.19, 2.02, 1.93, 2.21, 2.04, 2.27, 2.07] + [2.30, 2.31] * 8),
    "two classes, gain 4, 0.49": (2, [0.67, 0.634, 0.70, 1.55, 1.40, 1.60, 0.72]),
}


def stopped_at(guard: Guard, losses: list[float], share: float = 0.8) -> int | None:
    """The first look at which it spoke."""
    for number, loss in enumerate(losses):
        if guard.look(loss, share):
            return number
    return None


@pytest.mark.parametrize("classes, losses", HEALTHY.values(), ids=HEALTHY)
def test_healthy_runs_are_let_be(classes: int, losses: list[float]) -> None:
    assert stopped_at(Guard(classes), losses) is None
    assert stopped_at(Guard(classes), losses + [losses[-1]] * 200) is None


@pytest.mark.parametrize("classes, losses", COLLAPSES.values(), ids=COLLAPSES)
def test_collapses_are_stopped(classes: int, losses: list[float]) -> None:
    assert stopped_at(Guard(classes), losses + [math.log(classes)] * 10) is not None


@pytest.mark.parametrize("classes", [2, 3, 10, 100, 1000])
def test_slow_overfitting_with_noise_is_let_be(classes: int) -> None:
    """A query loss that falls to a third of a guess and then creeps up by a fifth of one."""
    guess = math.log(classes)
    noise = normal(120, seed=classes) * 0.02 * guess
    down = [guess * max(0.33, 1 - 0.1 * look) for look in range(20)]
    up = [guess * (0.33 + 0.2 * look / 100) for look in range(100)]
    assert stopped_at(Guard(classes), [loss + float(shake) for loss, shake in zip(down + up, noise, strict=True)]) is None


@pytest.mark.parametrize("classes", [2, 3, 10, 100, 1000])
def test_a_fall_back_to_guessing_is_stopped(classes: int) -> None:
    guess = math.log(classes)
    losses = [guess] * 3 + [0.3 * guess] * 30 + [1.02 * guess] * 30
    at = stopped_at(Guard(classes), losses)
    assert at is not None
    assert 33 <= at <= 55


def test_one_outlier_is_no_trend() -> None:
    assert stopped_at(Guard(10), [2.3, 0.5, 9.0, 0.5, 9.0, 9.0, 0.5]) is None


def test_a_loss_that_is_no_number_counts_as_bad() -> None:
    guard = Guard(10)
    assert stopped_at(guard, [1.0, float("nan"), float("nan"), float("inf")]) == 3
    assert guard.best == 1


def test_a_few_samples_that_carry_all_the_weight() -> None:
    guard = Guard(10)
    assert stopped_at(guard, [2.0, 1.9, 1.8, 1.7], share=0.05) == 2
    assert stopped_at(Guard(10), [2.0, 1.9, 1.8, 1.7], share=0.1) is None


def test_it_says_why_and_says_it_once() -> None:
    guard = Guard(10)
    said = [guard.look(loss, 0.8) for loss in [2.3, 0.4, 2.4, 2.4, 2.5, 2.5]]
    assert said[:4] == [None] * 4
    assert said[4] is not None
    assert said[4].startswith("influence weighting was stopped, all weights are 1 from here on, since ")
    assert "0.4 to 2.5" in said[4]
    assert said[5] is None
    assert guard.tripped
    few = Guard(10)
    assert "only 2% of the samples" in str([few.look(1.0, 0.02) for _ in range(3)][-1])
