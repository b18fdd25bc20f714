"""Divergences whose summands are cut off from above: the loss of on-policy self-distillation (Zhao et al., 2026)."""

from typing import Literal, final, get_args

import torch
from torch import Tensor

from limbeck.core.checks import fraction, not_negative, one_of, positive, whole
from limbeck.core.outputs import Views
from limbeck.core.term import Term
from limbeck.functional.divergences import full_precision, kl_summands, log_mixture, softened, token_mean
from limbeck.losses.sides import both_logits

Per = Literal["entry", "token"]


@final
class OPSD(Term):
    """T^2 sum over the classes of min(d, clip), d a summand of KL, reverse KL or JSD: few tokens cannot rule the loss.

    With p of the teacher and q of the student at T: d = p log(p / q) for beta = 0, q log(q / p) for beta = 1, else
    beta p log(p / m) + (1 - beta) q log(q / m), m = beta p + (1 - beta) q. Negative summands stay, so that the value can be
    below 0; it is 0 and flat where p = q.

    Args:
        beta: Which divergence, in [0, 1].
        clip: Largest summand, >= 0; None for no bound.
        per: "entry" cuts every class's summand, "token" their sum.
        top_k: Compare the teacher's k most probable classes only, both sides made to sum to 1 on them, >= 2; None for all.
        T: Temperature, > 0.

    Shapes: logits [B, C], or [B, L, V] with batch.mask [B, L] -> [B].

    Raises:
        ShapeError: Student and teacher differ in their classes.
        UsageError: An argument is out of range, or there is no teacher.

    Reference: Zhao et al., 2026, arXiv:2601.18734, sec. 3 and the released code. Differs from the paper: T^2, which its code
    leaves out (1.21 at T = 1.1); the clip acts before it.

    >>> OPSD()
    OPSD(beta=0, clip=0.05, per='entry', top_k=None, T=1.1)
    """

    needs = frozenset({"teacher"})
    rests = False
    says = ("beta", "clip", "per", "top_k", "T")

    def __init__(
        self,
        beta: float = 0.0,
        clip: float | None = 0.05,
        *,
        per: Per = "entry",
        top_k: int | None = None,
        T: float = 1.1,
    ) -> None:
        super().__init__()
        self.beta = fraction(beta, "OPSD: beta")
        self.clip = None if clip is None else not_negative(clip, "OPSD: clip")
        self.per = one_of(per, get_args(Per), "OPSD: per")
        self.top_k = None if top_k is None else whole(top_k, "OPSD: top_k", least=2)
        self.T = positive(T, "OPSD: T")

    def forward(self, views: Views) -> Tensor:
        """One value per sample, [B]."""
        student, teacher = both_logits(views, "OPSD")
        if self.top_k is not None and self.top_k < teacher.shape[-1]:
            teacher, ids = full_precision(teacher).topk(self.top_k, dim=-1)
            student = student.gather(-1, ids)
        return token_mean(softened(self.clipped, student, teacher, self.T), views.batch.mask)

    def clipped(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        """The clipped divergence of log-probabilities [..., C] -> [...]."""
        if self.clip is None:
            return summands(log_p, log_q, self.beta).sum(-1)
        # A class that the teacher rules out is cut off too: its summand is large and not infinite, whose gradient would be NaN.
        parts = summands(log_p.clamp(min=torch.finfo(log_p.dtype).min), log_q, self.beta)
        return parts.clamp(max=self.clip).sum(-1) if self.per == "entry" else parts.sum(-1).clamp(max=self.clip)


def summands(log_p: Tensor, log_q: Tensor, beta: float) -> Tensor:
    """What each class adds to KL(p || q) for beta = 0, KL(q || p) for beta = 1, the Jensen-Shannon divergence in between."""
    if beta in (0, 1):
        return kl_summands(log_p, log_q) if beta == 0 else kl_summands(log_q, log_p)
    log_m = log_mixture(log_p, log_q, beta)
    return beta * kl_summands(log_p, log_m) + (1 - beta) * kl_summands(log_q, log_m)
