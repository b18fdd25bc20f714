"""Logit standardisation (Sun et al., 2024), for any term on logits."""

from dataclasses import replace
from typing import final

import torch
from torch import Tensor

from limbeck.core.errors import ShapeError
from limbeck.core.outputs import Views
from limbeck.core.term import Moment, Term, teacher_of
from limbeck.functional.divergences import full_precision
from limbeck.losses.logits.kd import KD
from limbeck.losses.sides import logits_only, takes_over

EPSILON = 1e-7
"""Added to the standard deviation, as in the authors' code."""


@final
class Standardised(Term):
    """Another term on (logits - mean) / (standard deviation + 1e-7), row by row, of student and teacher.

    Each sample has so its own temperature on either side, and only the relations between logits are matched: l(a s + b) = l(s)
    for a > 0. The base temperature is that of the inner term.

    Args:
        term: Any term on logits. The authors take T = 2, with coefficient 9 for KD beside CE() * 0.1.
        unbiased: Whether the standard deviation divides by C - 1, as the authors' code, or by C, as the paper.

    Shapes: logits [B, C] or [B, L, V], as the inner term takes them, with at least three classes -> [B].

    Raises:
        ShapeError: There are fewer than three classes: with two, a standardised row knows nothing but its sign.
        UsageError: There is no teacher.

    Reference: Sun, Ren, Li, Wang, Cao, 2024, arXiv:2403.01427, sec. 4. Differs from the paper: divides by C - 1 unless told
    otherwise, since the published numbers come from the code.

    >>> Standardised(KD(T=2))
    Standardised(KD(T=2), unbiased=True)
    """

    says = ("term", "unbiased")

    def __init__(self, term: Term | None = None, unbiased: bool = True) -> None:
        super().__init__()
        self.term = logits_only(KD(T=2) if term is None else term, "Standardised")
        self.unbiased = unbiased
        takes_over(self, self.term)
        self.needs = self.needs | {"teacher"}

    def at(self, moment: Moment) -> None:
        """Tell the inner term."""
        self.term.at(moment)

    def forward(self, views: Views) -> Tensor:
        """One value per sample, [B]."""
        student, teacher = views.student, teacher_of(views, "Standardised")
        value: Tensor = self.term(
            replace(
                views,
                student=replace(student, logits=self.standardise(student.logits)),
                teacher=replace(teacher, logits=self.standardise(teacher.logits)),
            )
        )
        return value

    def standardise(self, logits: Tensor) -> Tensor:
        """(logits - mean) / (standard deviation + 1e-7) over the last axis; a constant row is only centred.

        Raises:
            ShapeError: There are fewer than three classes.
        """
        classes = logits.shape[-1]
        if classes < 3:
            raise ShapeError(f"Standardised: at least 3 classes are needed, got {list(logits.shape)}; use the inner term alone.")
        logits = full_precision(logits)
        centred = logits - logits.mean(-1, keepdim=True)
        variance = centred.square().sum(-1, keepdim=True) / (classes - self.unbiased)
        varies = variance > 0  # no root of 0, and no division by epsilon alone, whose gradient would have no bound
        return centred / torch.where(varies, torch.where(varies, variance, 1).sqrt() + EPSILON, 1)
