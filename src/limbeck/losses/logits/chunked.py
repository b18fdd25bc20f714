"""Any term on tokens, a few positions at a time, for vocabularies whose temporaries do not fit."""

from dataclasses import replace
from typing import final

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from limbeck.core.batch import Batch
from limbeck.core.checks import whole
from limbeck.core.errors import ShapeError, UsageError
from limbeck.core.outputs import Outputs, Views
from limbeck.core.term import Moment, Term
from limbeck.functional.divergences import token_mean
from limbeck.losses.logits.kd import KD
from limbeck.losses.sides import takes_over, tokens_only


@final
class Chunked(Term):
    """Another term on [B, L, V], evaluated `size` positions at a time and recomputed so in the backward pass: the same value.

    A position is handed to the term as a sample of its own, so that any term that takes samples one by one can be wrapped.
    Beside the logits, which the models made, and their gradient, what is alive at once are the term's temporaries for `size`
    positions: O(size V) in place of O(B L V), some 4 to 8 tensors of the logits' size in float32 for a divergence. The price is
    a second evaluation of the term in the backward pass.

    Args:
        term: The term; KD(T=1) where none is named. It must not look at more than one position at a time.
        size: Positions at a time, >= 1, over all samples of the batch.

    Shapes: logits [B, L, V] with batch.mask [B, L] -> [B]. Columns of the batch [B, L] go with the positions, columns [B] with
    the samples.

    Raises:
        ShapeError: The logits are not those of tokens, or the term takes only whole sequences.
        UsageError: The term couples samples, has parts of its own, or reads features.

    Reference: recomputation as in Chen et al., 2016, arXiv:1604.06174. Differs from the paper: no.

    >>> Chunked(KD(T=2), size=512)
    Chunked(KD(T=2), size=512)
    """

    says = ("term", "size")

    def __init__(self, term: Term | None = None, size: int = 1024) -> None:
        super().__init__()
        self.term = KD(T=1) if term is None else term
        inner = self.term
        if inner.coupled or inner.builds or inner.deploys or inner.student_taps or inner.teacher_taps:
            raise UsageError(
                f"Chunked: takes a term on logits that looks at each position alone, got {inner!r}; add that one beside it."
            )
        self.size = whole(size, "Chunked: size")
        takes_over(self, inner)

    def at(self, moment: Moment) -> None:
        """Tell the inner term."""
        self.term.at(moment)

    def remember(self, views: Views) -> None:
        """Have the inner term take note of the step."""
        self.term.remember(views)

    def forward(self, views: Views) -> Tensor:
        """One value per sample, [B].

        Raises:
            ShapeError: The logits are not those of tokens, or the teacher's stand at other positions.
        """
        logits, teacher = views.student.logits, views.teacher
        tokens_only(logits, "Chunked")
        if teacher is not None and teacher.logits.shape[:2] != logits.shape[:2]:
            raise ShapeError(
                f"Chunked: student logits {list(logits.shape)} and teacher logits {list(teacher.logits.shape)} stand at other "
                "positions; take the inner term alone."
            )
        values = torch.cat([self._part(part) for part in _cut(_as_samples(views), self.size)])
        return token_mean(values.reshape(logits.shape[:2]), views.batch.mask)

    def _part(self, views: Views) -> Tensor:
        # torch.func's transforms refuse the hooks of checkpoint; there the parts are evaluated plainly, to the same value.
        if not torch.is_grad_enabled() or torch._C._are_functorch_transforms_active():
            value: Tensor = self.term(views)
            return value

        def recomputed(logits: Tensor) -> Tensor:
            found: Tensor = self.term(Views(Outputs(logits), views.teacher, views.batch))
            return found

        found: Tensor = checkpoint(recomputed, views.student.logits, use_reentrant=False)
        return found


def _as_samples(views: Views) -> Views:
    """Every position as a sample, without a mask: views [B L, V] of the same memory."""
    rows, length = views.student.logits.shape[:2]

    def flat(part: Tensor) -> Tensor:
        return part.flatten(0, 1)

    batch, targets = views.batch, views.batch.targets

    def spread(column: Tensor) -> Tensor:
        if column.shape[:2] != (rows, length):
            return column.repeat_interleave(length, 0)
        # What stands at masked tokens is anything, labels often -100; the term does not know of the mask and takes a 0.
        known = column if batch.mask is None or column.dim() > 2 else column.masked_fill(~batch.mask, 0)
        return flat(known)

    meta = {name: spread(column) for name, column in batch.meta.items()}
    index = batch.index.repeat_interleave(length)
    # Inputs are not what a term on logits reads, and may be large: the identities stand in for them.
    lone = Batch(index, None if targets is None else spread(targets), index, None, meta)
    teacher = None
    if views.teacher is not None:
        sparse = views.teacher.sparse
        before = views.teacher.reference
        reference = None if before is None else replace(before, features={}).map(flat)
        teacher = Outputs(flat(views.teacher.logits), sparse=None if sparse is None else sparse.map(flat), reference=reference)
    return Views(Outputs(flat(views.student.logits)), teacher, lone)


def _cut(views: Views, size: int) -> list[Views]:
    """Consecutive parts of `size` samples; the last may be shorter.

    The logits are split once: the backward pass of a split is one concatenation, that of many slices would add up as many
    tensors of the size of all.
    """
    batches = [views.batch.take(slice(start, start + size)) for start in range(0, len(views.batch), size)]
    students = [Outputs(part) for part in torch.split(views.student.logits, size)]
    if views.teacher is None:
        return [Views(student, None, batch) for student, batch in zip(students, batches, strict=True)]
    teachers = [views.teacher.take(slice(start, start + size)) for start in range(0, len(views.batch), size)]
    return [Views(*parts) for parts in zip(students, teachers, batches, strict=True)]
