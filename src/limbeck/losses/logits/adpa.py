"""Rewards per token from what alignment taught the teacher (ADPA, 2025)."""

import math
from typing import Literal, final, get_args

import torch
from torch import Tensor

from limbeck.core.checks import one_of, whole
from limbeck.core.errors import UsageError
from limbeck.core.outputs import Outputs, Views
from limbeck.core.term import Term, same_classes, teacher_of
from limbeck.core.topk import TopK
from limbeck.functional.divergences import log_softmax, token_mean
from limbeck.losses.sides import known_classes

FLOOR = math.log(1e-7)
"""Log-probabilities below this count as this, so that no advantage is beyond 16.2."""
Fill = Literal["exact", "smallest"]


@final
class ADPA(Term):
    """-sum_a q(a) A(a), A = log p(a) - log r(a): p the aligned teacher, r the same before it was aligned, q the student.

    The sum runs over the k tokens that p holds most probable. A token's advantage is what alignment did to its log-probability,
    so the student is led to what was rewarded and away from what was not, over the whole vocabulary at once. The value may
    have any sign. Alone its optimum is one token per place: it stands beside CE() on preferred replies, and is taken on replies
    that the student itself wrote.

    Args:
        k: Tokens that are summed over, >= 1; None for all that the teacher gives.
        fill: What r counts for tokens that are not among *its* k most probable: "exact", its own probability, or "smallest", the
            smallest of p's k, as the paper's cache has it, which bends A. "exact" needs all of the reference's logits.

    Shapes: logits [B, C], or [B, L, V] with batch.mask [B, L] -> [B].

    Raises:
        ShapeError: Student, teacher and reference differ in their classes.
        UsageError: k or fill is not one of these, fewer than k classes are known, or the teacher has no reference.

    Reference: Gao, Wan, Guo, Quan, Wang, 2025, arXiv:2502.17927, sec. 4 and the released code. Differs from the paper: beta = 1,
    which the coefficient takes in; no penalty towards the first student and no importance weights, which are off there.

    >>> ADPA(k=50)
    ADPA(k=50, fill='exact')
    """

    needs = frozenset({"teacher", "teacher_topk", "teacher_reference"})
    rests = False
    says = ("k", "fill")

    def __init__(self, k: int | None = None, fill: Fill = "exact") -> None:
        super().__init__()
        self.k = None if k is None else whole(k, "ADPA: k")
        self.fill = one_of(fill, get_args(Fill), "ADPA: fill")

    def forward(self, views: Views) -> Tensor:
        """One value per sample, [B].

        Raises:
            UsageError: The teacher has no reference.
        """
        student, teacher = views.student.logits, teacher_of(views, "ADPA")
        if teacher.reference is None:
            raise UsageError(
                "ADPA: the teacher has no reference; take AlignedPair(after, before), or Aligned(...) of stored ones."
            )
        log_q = log_softmax(student)
        known = known_classes(student, teacher, self.k, 1.0, "ADPA")
        advantages = self._advantages(known, teacher.reference, student).to(log_q.dtype)
        return token_mean(-(log_q.gather(-1, known.ids).exp() * advantages).sum(-1), views.batch.mask)

    def _advantages(self, known: TopK, reference: Outputs, student: Tensor) -> Tensor:
        """A of the known tokens, [..., k].

        Raises:
            ShapeError: Student and reference differ in their classes.
            UsageError: The reference's own probabilities are asked for, but it does not give them.
        """
        if self.fill == "exact":
            if reference.sparse is not None:
                raise UsageError(
                    f"ADPA: the reference gives its {reference.sparse.k} most probable tokens only, which may be others than "
                    'the teacher\'s; take fill="smallest", or a reference with all logits.'
                )
            same_classes(student, reference.logits, "ADPA")
            log_r = log_softmax(reference.logits).gather(-1, known.ids)
        else:
            log_r = _filled(known, known_classes(student, reference, known.k, 1.0, "ADPA"))
        return known.log_probs.clamp(min=FLOOR) - log_r.clamp(min=FLOOR)


def _filled(known: TopK, reference: TopK) -> Tensor:
    """The reference's log-probabilities of the teacher's k tokens; of those that it does not know the teacher's smallest one."""
    same = known.ids.unsqueeze(-1) == reference.ids.unsqueeze(-2)
    zero = torch.zeros((), dtype=reference.log_probs.dtype, device=same.device)
    found = torch.where(same, reference.log_probs.unsqueeze(-2), zero).sum(-1)
    return torch.where(same.any(-1), found, known.log_probs.amin(-1, keepdim=True))
