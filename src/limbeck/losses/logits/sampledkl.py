"""The reverse divergence on the tokens that were drawn, for rollouts of large vocabularies."""

from typing import final

from torch import Tensor

from limbeck.core.checks import positive
from limbeck.core.outputs import Views
from limbeck.core.term import Term
from limbeck.functional.divergences import log_softmax, token_mean
from limbeck.functional.target_split import own
from limbeck.losses.sides import both_logits, fitting_labels


@final
class SampledKL(Term):
    """-A log q_y with A = log p_y - log q_y held fixed: where y was drawn from q, its expected gradient is that of KL(q || p).

    p is the teacher's and q the student's distribution at T, y the label: the token of the rollout. The value itself is no
    divergence and may have any sign.

    Args:
        T: Temperature, > 0: that at which the tokens were drawn, of all tokens (OnPolicy sees to it).

    Shapes: logits [B, C] and labels [B], or [B, L, V] and [B, L] with batch.mask [B, L] -> [B].

    Raises:
        ShapeError: Student and teacher differ in their classes, or logits and labels do not fit together.
        UsageError: T is not above 0, or teacher or labels are missing.

    Reference: Gu et al., 2023, MiniLLM, arXiv:2306.08543, sec. 2.2 with returns of one step; Zhao et al., 2026,
    arXiv:2601.18734, sec. 3. Differs from the paper: no ratio for rollouts that lag behind the student.

    >>> SampledKL()
    SampledKL(T=1)
    """

    needs = frozenset({"teacher", "targets"})
    says = ("T",)

    def __init__(self, T: float = 1.0) -> None:
        super().__init__()
        self.T = self.drawn = positive(T, "SampledKL: T")

    def forward(self, views: Views) -> Tensor:
        """One value per sample, [B]."""
        (student, teacher), drawn = both_logits(views, "SampledKL"), fitting_labels(views, "SampledKL")
        log_p, log_q = (own(log_softmax(logits, self.T), drawn) for logits in (teacher, student))
        advantage = (log_p - log_q).detach()
        return token_mean(-advantage * log_q, views.batch.mask)
