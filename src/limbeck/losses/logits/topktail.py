"""Divergences on the teacher's most probable classes and the mass of all others."""

from dataclasses import replace
from typing import final

from torch import Tensor

from limbeck.core.checks import whole
from limbeck.core.errors import UsageError
from limbeck.core.outputs import Outputs, Views
from limbeck.core.term import Term, teacher_of
from limbeck.functional.topk import lumped
from limbeck.losses.logits.kd import KD
from limbeck.losses.sides import known_classes


@final
class TopKTail(Term):
    """A divergence over k + 1 classes: the teacher's k most probable ones, and all others as one.

    D(P' || Q') with P' = (p_1, ..., p_k, 1 - sum p_i) and Q' the student's probabilities lumped the same way. It is never above
    D(P || Q) over all classes, 0 where the lumped distributions agree, and equal to D where k is the number of classes, or where
    student and teacher share the others out alike. A teacher that stores or serves only its most probable classes is enough
    for it; of a live one they are taken here.

    Args:
        term: The divergence: a term that says so by `lumps`, such as KD, ReverseKL, JSD, SkewKL, SkewReverseKL, TotalVariation
            and AlphaDivergence. None: KD(T=1). Its T must be the temperature at which the teacher's probabilities were stored.
        k: How many classes are kept one by one, >= 1; None for all that the teacher gives.

    Shapes: logits [B, C], or [B, L, V] with batch.mask [B, L] -> [B].

    Raises:
        ShapeError: Student and teacher differ in their classes.
        UsageError: The term needs all logits, the temperatures differ, or fewer than k classes are known.

    Reference: the lumping is the usual one of stored language-model teachers, and its bound the data-processing inequality of
    f-divergences (Csiszar, 1967). Without the last class mass is lost and the optimum is another: see FIRST for
    probabilities that are made to sum to 1 instead.

    >>> TopKTail(KD(T=2), k=20)
    TopKTail(KD(T=2), k=20)
    """

    needs = frozenset({"teacher", "teacher_topk"})
    says = ("term",)

    def __init__(self, term: Term | None = None, k: int | None = None) -> None:
        super().__init__()
        self.term = KD(T=1) if term is None else term
        if not self.term.lumps:
            raise UsageError(
                f"TopKTail: {self.term!r} needs all of the teacher's logits and cannot be taken on the most probable; "
                "take KD, ReverseKL, JSD, SkewKL, SkewReverseKL, TotalVariation or AlphaDivergence, or a teacher with all logits."
            )
        self.T = float(getattr(self.term, "T", 1.0))
        self.k = None if k is None else whole(k, "TopKTail: k")

    def forward(self, views: Views) -> Tensor:
        """One value per sample, [B]."""
        student = views.student.logits
        log_p, log_q = lumped(student, known_classes(student, teacher_of(views, "TopKTail"), self.k, self.T, "TopKTail"))
        # The term divides by T again: what was softened at T comes back as it is.
        both = replace(views, student=Outputs(self.T * log_q), teacher=Outputs(self.T * log_p))
        value: Tensor = self.term(both)
        return value
