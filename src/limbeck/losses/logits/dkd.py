"""Decoupled knowledge distillation (Zhao et al., 2022)."""

from typing import final

from torch import Tensor

from limbeck.core.checks import not_negative, positive
from limbeck.core.outputs import Views
from limbeck.core.term import Moment, Term
from limbeck.functional.divergences import softened, token_mean
from limbeck.functional.ramps import linear
from limbeck.functional.target_split import others_kl, target_kl
from limbeck.losses.sides import both_logits, fitting_labels


@final
class DKD(Term):
    """min(epoch / warm_up, 1) T^2 (alpha TCKD + beta NCKD): target against the rest, and the rest among itself, per sample.

    TCKD is the KL between (p_y, 1 - p_y) of teacher and student, NCKD the KL between their softmaxes over the classes other
    than y. KD itself is alpha = 1 and beta = 1 - p_y of the teacher. A term that is told no moment is at full strength.

    Args:
        alpha: Weight of TCKD, >= 0.
        beta: Weight of NCKD, >= 0. The paper takes 2 to 8 on CIFAR-100, 0.5 on ImageNet.
        T: Temperature, > 0.
        warm_up: Epochs over which the term grows linearly from 0, >= 0.

    Shapes: logits [B, C] and labels [B], or [B, L, V] and [B, L] with batch.mask [B, L] -> [B]. With two classes NCKD is 0.

    Raises:
        ShapeError: Student and teacher differ in their classes, or logits and labels do not fit together.
        UsageError: An argument is out of range, or there is no teacher or no label.

    Reference: Zhao, Cui, Song, Qiu, Liang, 2022, arXiv:2203.08679, sec. 3. Differs from the paper: the warm-up runs within
    epochs, from 0; the authors' code counts whole epochs from 1.

    >>> DKD()
    DKD(alpha=1, beta=8, T=4, warm_up=20)
    """

    needs = frozenset({"teacher", "targets"})
    says = ("alpha", "beta", "T", "warm_up")

    def __init__(self, alpha: float = 1.0, beta: float = 8.0, *, T: float = 4.0, warm_up: float = 20.0) -> None:
        super().__init__()
        self.alpha = not_negative(alpha, "DKD: alpha")
        self.beta = not_negative(beta, "DKD: beta")
        self.T = positive(T, "DKD: T")
        self.warm_up = not_negative(warm_up, "DKD: warm_up")
        self._strength = 1.0

    def at(self, moment: Moment) -> None:
        """Warm up."""
        self._strength = linear(moment.epoch, self.warm_up)

    def forward(self, views: Views) -> Tensor:
        """One value per sample, [B]."""
        (student, teacher), targets = both_logits(views, "DKD"), fitting_labels(views, "DKD")

        def parts(log_p: Tensor, log_q: Tensor) -> Tensor:
            return self.alpha * target_kl(log_p, log_q, targets) + self.beta * others_kl(log_p, log_q, targets)

        return self._strength * token_mean(softened(parts, student, teacher, self.T), views.batch.mask)
