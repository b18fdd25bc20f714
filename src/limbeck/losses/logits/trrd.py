"""Policy gradient by reward, in a trust region that the teacher shapes (RLAD, 2026); GRPO's loss at one end."""

from typing import final

from torch import Tensor

from limbeck.core.checks import fraction, not_negative, positive
from limbeck.core.outputs import Views
from limbeck.core.term import Term
from limbeck.functional.divergences import log_softmax, token_mean
from limbeck.functional.policy import clipped_surrogate, k3
from limbeck.functional.target_split import own
from limbeck.losses.drawn import ADVANTAGE, DRAWN, REFERENCE, drawn_column
from limbeck.losses.sides import both_logits, fitting_labels, tokens_only

LEAST = -20.0
"""Bound of the teacher's log-probability of a drawn token, which may be -inf."""


@final
class TRRD(Term):
    """-min(rho A, clip(rho, 1 - clip, 1 + clip) A) + beta k3 per drawn token, rho = (q / b)^alpha (q / p)^(1 - alpha).

    With q the student's, p the teacher's probability of the token and b that at which it was drawn: rho is the ratio to the
    geometric mean of the two, not normalised. The reward decides which way to go: A is the advantage of the completion, for all
    its tokens. The teacher decides how far: a good token that it likes has more room before the clip, one that it does not
    like less. k3 = p_0 / q - 1 - log(p_0 / q) holds the student to what it was, p_0. The value may have any sign.

    Args:
        alpha: Share of the student that wrote, in [0, 1]: 1 is GRPO, whatever the teacher says; 0 the ratio to the teacher alone.
        clip: How far rho may go from 1, > 0.
        beta: Weight of k3, >= 0.

    Shapes: logits [B, L, V], labels [B, L], batch.meta["log_drawn"] [B, L], log b, and ["advantage"] [B], for beta > 0
        ["reference"] [B, L], log p_0, with batch.mask [B, L] -> [B].

    Raises:
        ShapeError: Student and teacher differ in their classes, or logits, labels and columns do not fit together.
        UsageError: An argument is out of range, or teacher, labels or a column are missing.

    Reference: RLAD, 2026, arXiv:2602.22495; GRPO: Shao et al., 2024, arXiv:2402.03300, eq. 3. Differs from the
    paper: reconstructed; ratio and objective are those of two independent accounts; alpha, the clip's width and beta are the
    project's. One passage of the paper is said to have the ends of alpha the other way round.

    >>> TRRD()
    TRRD(alpha=0.5, clip=0.2, beta=0)
    """

    needs = frozenset({"teacher", "targets", "log_drawn", "advantage"})
    drawn = 1.0
    says = ("alpha", "clip", "beta")

    def __init__(self, alpha: float = 0.5, *, clip: float = 0.2, beta: float = 0.0) -> None:
        super().__init__()
        self.alpha = fraction(alpha, "TRRD: alpha")
        self.clip, self.beta = positive(clip, "TRRD: clip"), not_negative(beta, "TRRD: beta")
        if self.beta:
            self.needs = type(self).needs | {"reference"}

    def forward(self, views: Views) -> Tensor:
        """One value per sample, [B]."""
        student, teacher = both_logits(views, "TRRD")
        tokens_only(student, "TRRD")
        tokens = fitting_labels(views, "TRRD")
        of_student, of_teacher = (own(log_softmax(logits), tokens) for logits in (student, teacher))
        log_drawn, advantage = (drawn_column(views, name, "TRRD") for name in (DRAWN, ADVANTAGE))
        anchor = self.alpha * log_drawn + (1 - self.alpha) * of_teacher.clamp(min=LEAST)
        values = -clipped_surrogate((of_student - anchor).exp(), advantage.unsqueeze(1), self.clip)
        if self.beta:
            values = values + self.beta * k3(of_student, drawn_column(views, REFERENCE, "TRRD"))
        return token_mean(values, views.batch.mask)
