"""Figures of texts, worked out by hand."""

import pytest

from limbeck.core.errors import ShapeError, UsageError
from limbeck.evaluation.texts import answer_agreement, exact_match, rouge_l


def test_rouge_l_by_hand() -> None:
    # "the cat sat" in "the cat was sat down": 3 of 3 and 3 of 5 words in order, F1 = 2 * 0.6 / 1.6 = 0.75.
    assert rouge_l(["The cat sat!"], ["the cat was sat down"]) == pytest.approx(0.75)
    # Order counts: of "b a" and "a b" one word is common, F1 = 1/2. Without a word: 0.
    assert rouge_l(["b a", "same", ""], ["a b", "same", "x"]) == pytest.approx((0.5 + 1 + 0) / 3)
    # Letters of other scripts are letters; the library's own splitting would leave nothing of them.
    assert rouge_l(["кот сидел"], ["кот ушёл"]) == pytest.approx(0.5)


def test_exact_match_by_hand() -> None:
    assert exact_match(["a b", " a  b\n", "A b", ""], ["a b", "a b", "a b", "a b"]) == 0.5


def test_the_agreement_of_the_sheet() -> None:
    """Generalization-vs-fidelity: agreement 0.6, both right on 0.6 of the items."""
    teacher, student, truth = ["4", "7", "12", "9", "3"], ["4", "7", "11", "9", "5"], ["4", "8", "12", "9", "5"]
    found = answer_agreement(student, teacher, truth)
    assert found.overall == 0.6
    assert (exact_match(teacher, truth), exact_match(student, truth)) == (0.6, 0.6)
    # The teacher is right on items 1, 3, 4, of which the student gives 1 and 4; wrong on 2 and 5, where it follows on 2;
    # both are wrong on item 2 alone.
    assert (found.where_right, found.where_wrong, found.copied) == (pytest.approx(2 / 3), 0.5, 1.0)
    assert answer_agreement(teacher, student, truth).overall == found.overall
    assert answer_agreement(truth, truth, truth).copied is None


def test_what_is_refused() -> None:
    with pytest.raises(ShapeError, match="rouge_l: 1 texts and 2 to compare with"):
        rouge_l(["a"], ["a", "b"])
    with pytest.raises(UsageError, match="exact_match: there is no text"):
        exact_match([], [])
