"""How near texts that a model wrote are to references, and to its teacher's. Knows nothing of tokens, prompts or models."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from limbeck.core.errors import ShapeError, UsageError


def exact_match(texts: Sequence[str], references: Sequence[str]) -> float:
    """The fraction of texts that are their reference, but for white space at both ends and its amount between words.

    Raises:
        ShapeError: There is not one reference for each text.
        UsageError: There is no text.
    """
    _paired(texts, references, "exact_match")
    return sum(map(_same, texts, references)) / len(texts)


def rouge_l(texts: Sequence[str], references: Sequence[str]) -> float:
    """The mean F1 of the longest common subsequence of words, in [0, 1]; words are runs of letters and digits, in lower case.

    Computed by torchmetrics. Its own splitting, the original one, knows a to z only; here letters are those of all scripts, which
    is the same for English. Two texts without a word score 0.

    Raises:
        ShapeError: There is not one reference for each text.
        UsageError: There is no text.

    Reference: Lin, 2004, "ROUGE: a package for automatic evaluation of summaries", sec. 3.1, beta = 1.
    """
    from torchmetrics.functional.text import rouge_score  # here, since it takes seconds to import

    _paired(texts, references, "rouge_l")
    found = rouge_score(list(texts), list(references), rouge_keys="rougeL", normalizer=_words, tokenizer=str.split)
    return float(found["rougeL_fmeasure"])


@dataclass(frozen=True)
class Agreement:
    """How often a student gives its teacher's answer, all in [0, 1]; None where there is no such item.

    Args:
        overall: Of all items: symmetric in student and teacher.
        where_right: Of those that the teacher gets right: there it is the student's accuracy.
        where_wrong: Of those that it gets wrong.
        copied: Of those that both get wrong: errors that are the teacher's own.
    """

    overall: float
    where_right: float | None
    where_wrong: float | None
    copied: float | None


def answer_agreement(student: Sequence[str], teacher: Sequence[str], references: Sequence[str]) -> Agreement:
    """How often the student's answers are the teacher's, and on which items; equality as in `exact_match`.

    Raises:
        ShapeError: The three differ in length.
        UsageError: There is no answer.

    Reference: Ramesh et al., 2025, arXiv:2505.15442, teacher-student agreement. Differs: the three conditional ones are added.
    """
    _paired(student, teacher, "answer_agreement")
    _paired(student, references, "answer_agreement")
    same = list(map(_same, student, teacher))
    right, own = list(map(_same, teacher, references)), list(map(_same, student, references))

    def share(kept: list[bool]) -> float | None:
        found = [one for one, keep in zip(same, kept, strict=True) if keep]
        return sum(found) / len(found) if found else None

    wrong = [not one for one in right]
    both = [not one and not other for one, other in zip(right, own, strict=True)]
    return Agreement(sum(same) / len(same), share(right), share(wrong), share(both))


def _same(text: str, other: str) -> bool:
    return text.split() == other.split()


def _words(text: str) -> str:
    return " ".join(re.findall(r"[^\W_]+", text.lower()))


def _paired(texts: Sequence[str], references: Sequence[str], who: str) -> None:
    if len(texts) != len(references):
        raise ShapeError(f"{who}: {len(texts)} texts and {len(references)} to compare with; give one for each.")
    if not texts:
        raise UsageError(f"{who}: there is no text to evaluate; give at least one.")
