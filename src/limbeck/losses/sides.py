"""What terms read from the views, checked once: the logits of both sides, labels that fit them; and terms that can be wrapped."""

from torch import Tensor

from limbeck.core.errors import ShapeError, UsageError
from limbeck.core.outputs import Views
from limbeck.core.term import Term, same_classes, targets_of, teacher_of


def both_logits(views: Views, who: str) -> tuple[Tensor, Tensor]:
    """The logits of student and teacher.

    Raises:
        ShapeError: They differ in their classes.
        UsageError: There is no teacher.
    """
    student, teacher = views.student.logits, teacher_of(views, who).logits
    same_classes(student, teacher, who)
    return student, teacher


def fitting_labels(views: Views, who: str) -> Tensor:
    """One label per row of the student's logits; masked tokens, whose labels are often -100, get 0.

    Raises:
        ShapeError: Logits and labels do not fit together.
        UsageError: The batch has no labels.
    """
    logits, targets, mask = views.student.logits, targets_of(views, who), views.batch.mask
    if logits.shape[:-1] != targets.shape:
        raise ShapeError(f"{who}: logits {list(logits.shape)} need one label per row, got labels {list(targets.shape)}.")
    return targets.where(mask, 0) if mask is not None and targets.shape == mask.shape else targets


def logits_only(term: Term, who: str) -> Term:
    """The term, when logits and labels are all that it reads and it keeps nothing between steps: such a one can be wrapped.

    Raises:
        UsageError: It reads or keeps more.
    """
    if term.builds or term.remembers or term.deploys or term.student_taps or term.teacher_taps:
        raise UsageError(f"{who}: takes a term that reads logits only, got {term!r}; add that one beside it.")
    return term


def takes_over(outer: Term, inner: Term) -> None:
    """Have a term that wraps another one say of itself what that one says."""
    outer.needs, outer.coupled, outer.remembers = inner.needs, inner.coupled, inner.remembers
    outer.rests, outer.crosses, outer.compiles, outer.drawn = inner.rests, inner.crosses, inner.compiles, inner.drawn


def samples_only(logits: Tensor, who: str) -> None:
    """Check that there is one row of logits per sample.

    Raises:
        ShapeError: The logits are those of tokens.
    """
    if logits.dim() != 2:
        raise ShapeError(f"{who}: logits must be [B, C], one row per sample, got {list(logits.shape)}; use KD for tokens.")


def tokens_only(logits: Tensor, who: str) -> None:
    """Check that there is one row of logits per token.

    Raises:
        ShapeError: The logits are those of whole samples.
    """
    if logits.dim() != 3:
        raise ShapeError(f"{who}: logits must be [B, L, V], one row per token, got {list(logits.shape)}; use it for sequences.")
