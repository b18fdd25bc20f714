"""Multi-level logit distillation (Jin et al., 2023)."""

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from limbeck.core.checks import not_negative, positive
from limbeck.core.errors import UsageError
from limbeck.core.outputs import Views
from limbeck.core.term import Term
from limbeck.functional.divergences import kd_divergence, log_softmax
from limbeck.functional.similarity import products
from limbeck.losses.sides import both_logits, samples_only


@final
class MLKD(Term):
    """sum over T of (T^2 KL + batch |P P' - Q Q'|^2 / B + per_class |P' P - Q' Q|^2 / C): an anchor's share.

    P and Q are the probabilities [B, C] of teacher and student at T. A sample's share of the batch level is its row of
    (P P' - Q Q')^2; the class level belongs to the batch as a whole, and each sample carries the same value.

    Args:
        temperatures: Each > 0.
        batch: Weight of the batch level, >= 0.
        per_class: Weight of the class level, >= 0.

    Shapes: logits [B, C] -> [B].

    Raises:
        ShapeError: Student and teacher differ in their classes, or the logits are those of tokens.
        UsageError: An argument is out of range, there are no temperatures, or there is no teacher.

    Reference: Jin, Wang, Lin, 2023, Multi-level logit distillation, CVPR. Differs from the paper: reconstructed from
    general knowledge of paper and code. Without the second, strongly augmented view and without the authors' masks by the
    teacher's confidence, which their code applies to values that are reduced already.

    >>> MLKD(temperatures=(2, 4))
    MLKD(temperatures=(2, 4), batch=1, per_class=1)
    """

    needs = frozenset({"teacher"})
    coupled = True
    says = ("temperatures", "batch", "per_class")

    def __init__(
        self, temperatures: Sequence[float] = (2.0, 3.0, 4.0, 5.0, 6.0), *, batch: float = 1.0, per_class: float = 1.0
    ) -> None:
        super().__init__()
        self.temperatures = tuple(positive(T, "MLKD: each temperature") for T in temperatures)
        if not self.temperatures:
            raise UsageError("MLKD: temperatures must hold at least one number, got none.")
        self.batch = not_negative(batch, "MLKD: batch")
        self.per_class = not_negative(per_class, "MLKD: per_class")

    def forward(self, views: Views) -> Tensor:
        """One value per sample, [B]."""
        student, teacher = both_logits(views, "MLKD")
        samples_only(student, "MLKD")
        return torch.stack([self.level(student, teacher, T) for T in self.temperatures]).sum(0)

    def level(self, student: Tensor, teacher: Tensor, T: float) -> Tensor:
        """What one temperature adds, [B]."""
        p, q = log_softmax(teacher, T).exp(), log_softmax(student, T).exp()
        samples = (products(p, p) - products(q, q)).square().sum(1)
        classes = (products(p.T, p.T) - products(q.T, q.T)).square().sum() / p.shape[1]
        return kd_divergence(student, teacher, T) + self.batch * samples + self.per_class * classes
