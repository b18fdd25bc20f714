"""What terms read from the views, checked once: the logits of both sides, labels that fit them; and terms that can be wrapped."""

from collections.abc import Callable

from torch import Tensor

from limbeck.core.errors import ShapeError, UsageError
from limbeck.core.outputs import Outputs, Views
from limbeck.core.term import Term, same_classes, targets_of, teacher_of
from limbeck.core.topk import TopK
from limbeck.functional.divergences import softened, token_mean
from limbeck.functional.topk import fewer, top_k


def both_logits(views: Views, who: str) -> tuple[Tensor, Tensor]:
    """The logits of student and teacher.

    Raises:
        ShapeError: They differ in their classes.
        UsageError: There is no teacher.
    """
    student, teacher = views.student.logits, teacher_of(views, who).logits
    same_classes(student, teacher, who)
    return student, teacher


def softened_between(views: Views, who: str, divergence: Callable[[Tensor, Tensor], Tensor], T: float | Tensor) -> Tensor:
    """T^2 divergence(log softmax(teacher / T), log softmax(student / T)), one value per sample, [B].

    Raises:
        ShapeError: They differ in their classes.
        UsageError: There is no teacher.
    """
    student, teacher = both_logits(views, who)
    return token_mean(softened(divergence, student, teacher, T), views.batch.mask)


def known_classes(student: Tensor, outputs: Outputs, k: int | None, T: float, who: str) -> TopK:
    """The k most probable classes of a side at temperature T, or for k = None all that are known, of the student's classes.

    Raises:
        ShapeError: The side and the student differ in their classes.
        UsageError: Fewer than k classes are known, or at another temperature.
    """
    sparse = outputs.sparse
    most = student.shape[-1] if sparse is None else sparse.k
    wanted = most if k is None else k
    if wanted > most:
        raise UsageError(f"{who}: k is {k}, but only {most} classes are known of the teacher; lower k, or store more.")
    if sparse is None:
        same_classes(student, outputs.logits, who)
        return top_k(outputs.logits, wanted, T)
    if sparse.T != T:
        raise UsageError(
            f"{who}: compares at temperature {T:g}, but the teacher's probabilities were taken at {sparse.T:g}, and the others' "
            "mass cannot be softened afterwards; take the same, or store them anew."
        )
    if sparse.ids.shape[:-1] != student.shape[:-1] or sparse.classes not in (None, student.shape[-1]):
        raise ShapeError(
            f"{who}: student logits {list(student.shape)} do not fit the {sparse.k} most probable of {sparse.classes or 'some'} "
            f"classes of the teacher, {list(sparse.ids.shape)}; they must be of the same classes."
        )
    return fewer(sparse, wanted)


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
