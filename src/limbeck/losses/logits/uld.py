"""Universal logit distillation, across tokenizers (Boizard et al., 2024)."""

from typing import final

from torch import Tensor

from limbeck.core.errors import ShapeError
from limbeck.core.outputs import Views
from limbeck.core.term import Term, teacher_of
from limbeck.functional.divergences import log_softmax, token_mean
from limbeck.functional.vocabularies import counted_first, sorted_distance

TEACHER_MASK = "teacher_mask"
"""The column of a batch with the teacher's own mask, [B, L'] bool, where its tokenizer is another."""


@final
class ULD(Term):
    """Sum of |p - q| over the classes in descending order of probability on either side: any two vocabularies will do.

    It is the Wasserstein distance of the two lists of probabilities at a uniform cost, at most 2; the shorter vocabulary is
    filled up with zeros. It knows nothing of which class is which: 0 also where the student gives the right probabilities to the
    wrong tokens, so it belongs beside CE. Tokens are paired in their order from the first counted one, up to the shorter side.

    Shapes: logits [B, C] and [B, C'], or [B, L, V] with batch.mask [B, L] and [B, L', V'] with batch.meta["teacher_mask"]
    [B, L'] -> [B]. Without a teacher's mask L' is L, and tokens of the same position are paired.

    Raises:
        ShapeError: The sides have other numbers of tokens, and no mask for the teacher.
        UsageError: There is no teacher.

    Reference: Boizard, El Haddad, Hudelot, Colombo, 2024, arXiv:2402.12030, sec. 3. Differs from the paper: no; the
    cross-entropy that it adds is CE().

    >>> ULD()
    ULD()
    """

    needs = frozenset({"teacher"})
    crosses = True

    def forward(self, views: Views) -> Tensor:
        """One value per sample, [B]."""
        student, teacher, mask = paired(views, "ULD")
        return token_mean(sorted_distance(log_softmax(teacher).exp(), log_softmax(student).exp()), mask)


def paired(views: Views, who: str) -> tuple[Tensor, Tensor, Tensor | None]:
    """The logits of both sides, row against row, and which pairs count.

    Raises:
        ShapeError: The sides do not fit together.
        UsageError: There is no teacher.
    """
    student, teacher, mask = views.student.logits, teacher_of(views, who).logits, views.batch.mask
    theirs = views.batch.meta.get(TEACHER_MASK)
    if theirs is None:
        if student.shape[:-1] != teacher.shape[:-1]:
            raise ShapeError(
                f"{who}: student logits {list(student.shape)} and teacher logits {list(teacher.shape)} are of other tokens; "
                f"give batch.meta[{TEACHER_MASK!r}], or the same tokens to both."
            )
        return student, teacher, mask
    if mask is None or teacher.shape[:-1] != theirs.shape:
        raise ShapeError(f"{who}: {TEACHER_MASK} is {list(theirs.shape)}; it needs batch.mask, and teacher logits of that shape.")
    length = min(student.shape[1], teacher.shape[1])
    own, others = counted_first(student, mask, length), counted_first(teacher, theirs, length)
    count = mask.sum(1).minimum(theirs.sum(1))
    return own, others, mask.new_ones(1, length).cumsum(1) <= count.unsqueeze(1)
