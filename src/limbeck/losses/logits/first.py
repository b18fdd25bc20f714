"""Distillation of the teacher's few most probable classes, recalibrated (Shum et al., 2024)."""

from typing import Literal, final, get_args

from torch import Tensor

from limbeck.core.checks import one_of, positive, whole
from limbeck.core.errors import UsageError
from limbeck.core.outputs import Views
from limbeck.core.shown import arguments
from limbeck.core.term import Term, teacher_of
from limbeck.functional.divergences import forward_kl, log_softmax, token_mean
from limbeck.losses.sides import known_classes

Kept = Literal["linear", "softmax"]


@final
class FIRST(Term):
    """KL(P || Q) over the teacher's k most probable classes, P = softmax(p / c): a softmax of probabilities, not of logits.

    c, found by `best_c` on labelled validation samples, makes the teacher trustworthy: below 0.2 it sharpens, towards 1 it
    flattens to nearly 1 / k. Q is the student's probabilities of these classes, made to sum to 1.

    Args:
        k: How many classes, >= 2.
        c: The scale of the recalibration, > 0; None for p divided by its sum.
        student: How Q sums to 1: "linear" divides by the sum, "softmax" is softmax(q / c), whose gradients are weak: it bounds
            the ratio of two classes by exp(1 / c).

    Shapes: logits [B, C], or [B, L, V] with batch.mask [B, L] -> [B]. `views.teacher.sparse` is read where it is there.

    Raises:
        ShapeError: Student and teacher differ in their classes.
        UsageError: An argument is out of range, fewer than k classes are known, or they were not taken at T = 1.

    Reference: Shum et al., 2024, arXiv:2408.12168, sec. 3. Differs from the paper: the released code takes "softmax" for both
    sides, here "linear" is the default. Its bucket for the rest, without recalibration, is TopKTail(KD(T=1), k=5).

    >>> FIRST()
    FIRST(k=5, c=0.3, student='linear')
    """

    needs = frozenset({"teacher", "teacher_topk"})
    rests = False

    def __init__(self, k: int = 5, c: float | None = 0.3, *, student: Kept = "linear") -> None:
        super().__init__()
        self.k = whole(k, "FIRST: k", least=2)
        self.c = None if c is None else positive(c, "FIRST: c")
        self.kept = one_of(student, get_args(Kept), "FIRST: student")
        if self.c is None and self.kept == "softmax":
            raise UsageError("FIRST: student='softmax' needs a scale c; give one, or take student='linear'.")

    def forward(self, views: Views) -> Tensor:
        """One value per sample, [B]."""
        student = views.student.logits
        known = known_classes(student, teacher_of(views, "FIRST"), min(self.k, student.shape[-1]), 1.0, "FIRST")
        own = log_softmax(student).gather(-1, known.ids)
        theirs = recalibrated(known.log_probs.to(own.dtype), self.c)
        own = recalibrated(own, self.c if self.kept == "softmax" else None)
        return token_mean(forward_kl(theirs, own), views.batch.mask)

    def extra_repr(self) -> str:
        """The arguments."""
        return arguments(self, "k", "c", "student", student=self.kept)


def recalibrated(log_p: Tensor, c: float | None) -> Tensor:
    """Log softmax(p / c) of log-probabilities [..., K]; log(p / sum p) for c = None."""
    return log_softmax(log_p) if c is None else log_softmax(log_p.exp(), c)


def best_c(log_p: Tensor, ids: Tensor, targets: Tensor) -> float:
    """The c whose recalibrated teacher has the least calibration error: 0.1 to 1 by 0.1, then around the best by 0.02.

    Args:
        log_p: [N, K], the teacher's log-probabilities of its K most probable answers.
        ids: [N, K], which these are.
        targets: [N], the right answers, of validation samples.
    """
    from torchmetrics.functional.classification import binary_calibration_error  # here, since it takes seconds to import

    right = (ids.gather(-1, log_p.argmax(-1, keepdim=True)).squeeze(-1) == targets).long()

    def error(c: float) -> float:
        confidence = recalibrated(log_p, c).exp().amax(-1)
        return float(binary_calibration_error(confidence.float(), right, n_bins=10, norm="l1"))

    coarse = min((step / 10 for step in range(1, 11)), key=error)
    return min((fine for step in range(-5, 6) if (fine := round(coarse + 0.02 * step, 2)) > 0), key=error)
