"""Two tokenizers of the same text: which tokens cover the same of it, and which entries of their vocabularies are the same."""

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

from limbeck.core.errors import ShapeError


def shared_groups(student_ends: Sequence[int], teacher_ends: Sequence[int]) -> tuple[list[int], list[int]]:
    """The group of each token: tokens of both sides up to the next place in the text at which both end one, -1 after the last.

    Args:
        student_ends: Where each token of the student ends in the text, in bytes or characters, never falling.
        teacher_ends: The same of the teacher's tokens.

    Raises:
        ShapeError: Ends fall.

    >>> shared_groups([2, 5, 7, 9], [5, 6, 9])  # ab|cde|fg|hi and abcde|f|ghi
    ([0, 0, 1, 1], [0, 1, 1])
    """
    for side, ends in (("student", student_ends), ("teacher", teacher_ends)):
        if any(later < earlier for earlier, later in pairwise(ends)):
            raise ShapeError(f"shared_groups: the ends of the {side}'s tokens must not fall, got {list(ends)}.")
    own, others = [-1] * len(student_ends), [-1] * len(teacher_ends)
    group = i = j = first_i = first_j = 0
    while i < len(own) and j < len(others):
        end, other = student_ends[i], teacher_ends[j]
        i, j = i + (end <= other), j + (other <= end)
        if end == other:
            own[first_i:i], others[first_j:j] = [group] * (i - first_i), [group] * (j - first_j)
            first_i, first_j, group = i, j, group + 1
    return own, others


def shared_entries(student: Sequence[str], teacher: Sequence[str]) -> list[tuple[int, int]]:
    """The numbers of the entries that are the same string in both vocabularies; a string that comes twice in one is left out.

    Args:
        student: The student's vocabulary, by number, in the spelling of one convention (a leading space written alike).
        teacher: The teacher's.

    >>> shared_entries(["a", "b", "ab"], ["ab", "c", "a"])
    [(0, 2), (2, 0)]
    """
    places = [Counter(side) for side in (student, teacher)]
    known = {entry: number for number, entry in enumerate(teacher)}
    return [(own, known[entry]) for own, entry in enumerate(student) if all(found[entry] == 1 for found in places)]
