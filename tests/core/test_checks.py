"""Checks of constructor arguments, and the sentences of errors."""

from collections.abc import Callable

import pytest

from limbeck.core.checks import finite, fraction, not_negative, one_of, positive, proper_fraction, whole
from limbeck.core.errors import DataError, LimbeckError, MissingExtraError, RunError, ShapeError, UsageError, nearest

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    "check, good, bad",
    [
        (finite, [-1, 0, 2.5], [NAN, INF, "1", None, True]),
        (positive, [1e-9, 3], [0, -1, NAN, INF, "1", True]),
        (not_negative, [0, 1.5], [-1e-9, NAN, INF, "1", False]),
        (fraction, [0, 0.5, 1], [-0.1, 1.1, NAN, "1", True]),
        (proper_fraction, [1e-9, 0.5], [0, 1, NAN, "1", True]),
        (whole, [1, 10], [0, -3, 1.0, "1", True, None]),
    ],
)
def test_checks(check: Callable[..., float], good: list[float], bad: list[object]) -> None:
    for value in good:
        assert check(value, "X: y") == value
    for wrong in bad:
        with pytest.raises(UsageError, match=r"^X: y must ") as caught:
            check(wrong, "X: y")
        assert repr(wrong) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_whole_from_another_least() -> None:
    assert whole(0, "X: y", least=0) == 0
    with pytest.raises(UsageError, match="at least 2"):
        whole(1, "X: y", least=2)


def test_one_of_names_the_choices() -> None:
    assert one_of("a", ("a", "b"), "X: y") == "a"
    with pytest.raises(UsageError, match=r"^X: y must be one of a, b, got 3\.$"):
        one_of(3, ("a", "b"), "X: y")  # type: ignore[arg-type]


def test_exit_codes_tell_the_users_words_from_a_failed_run() -> None:
    assert {kind.exit_code for kind in (UsageError, ShapeError, DataError, MissingExtraError)} == {2}
    assert RunError.exit_code == LimbeckError.exit_code == 1


def test_nearest_word() -> None:
    assert nearest("ekfca", ["EKFAC", "Exact"]) == "; did you mean 'EKFAC'?"
    assert nearest("zzz", ["EKFAC"]) == ""
    assert nearest("x", []) == ""
