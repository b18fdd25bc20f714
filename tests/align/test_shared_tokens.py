"""Groups of tokens that cover the same text, and entries that two vocabularies share."""

import pytest

from limbeck.align.tokens import shared_entries, shared_groups
from limbeck.core.errors import ShapeError


def ends(tokens: list[str]) -> list[int]:
    return [len("".join(tokens[: place + 1])) for place in range(len(tokens))]


def test_groups_cover_the_same_text() -> None:
    student, teacher = ["the", " c", "at", "s", " sat"], ["th", "e c", "ats", " ", "sat", "!"]
    own, others = shared_groups(ends(student), ends(teacher))
    # the boundaries in common lie after "the c", "the cats" and "the cats sat"
    assert own == [0, 0, 1, 1, 2]
    assert others == [0, 0, 1, 2, 2, -1]
    for group in range(3):
        texts = [
            "".join(part for part, g in zip(side, groups, strict=True) if g == group)
            for side, groups in ((student, own), (teacher, others))
        ]
        assert texts[0] == texts[1]


def test_what_never_meets_belongs_to_no_group() -> None:
    assert shared_groups([1, 3], [2, 4]) == ([-1, -1], [-1, -1])
    assert shared_groups([], [2]) == ([], [-1])
    assert shared_groups([2, 2, 4], [2, 4]) == ([0, 1, 1], [0, 1])  # an empty token belongs to what follows


def test_entries_that_come_twice_are_left_out() -> None:
    assert shared_entries(["a", "b", "c", "c"], ["c", "b", "a", "a"]) == [(1, 1)]


def test_ends_must_not_fall() -> None:
    with pytest.raises(ShapeError, match="ends of the teacher's tokens must not fall"):
        shared_groups([1, 2], [2, 1])
