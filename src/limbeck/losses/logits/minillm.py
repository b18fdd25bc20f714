"""The reverse divergence of whole texts, by policy gradient (MiniLLM, 2023)."""

from typing import final

from torch import Tensor

from limbeck.core.checks import positive
from limbeck.core.outputs import Views
from limbeck.core.term import Term
from limbeck.functional.divergences import log_softmax, reverse_kl, token_mean
from limbeck.functional.policy import clipped_surrogate, following, mean_returns, returns, whitened
from limbeck.functional.target_split import own
from limbeck.losses.drawn import DRAWN, counted, drawn_column
from limbeck.losses.sides import both_logits, fitting_labels, tokens_only

LARGEST = 100.0
"""Bound of |log p - log q| of a drawn token, as in the released code: a token that the teacher rules out is bad, not infinite."""


@final
class MiniLLM(Term):
    """w_t KL(q_t || p_t) - min(rho_t A_t, clip(rho_t, 1 - clip, 1 + clip) A_t) per token of the student's own texts.

    The first part is the divergence of this token, over the whole vocabulary; the second one makes the student answer for what
    its token leads to. With p the teacher, q the student, y_t the drawn token and b_t the probability at which it was drawn:
    rho_t = q(y_t) / b_t with, w_t the same without a gradient, A_t = (r_(t+1) + ... + r_T) / (T - t), without a gradient, of
    r_s = log p(y_s) - log q(y_s), and A_T = 0. The value is no divergence and may have any sign.

    Args:
        clip: How far rho may go from 1, > 0.
        normalise: Divide A by the number of tokens that follow, so that long texts do not rule; False is the exact gradient.
        whiten: Give A mean 0 and variance 1 over the batch's tokens.

    Shapes: logits [B, L, V], labels [B, L] and batch.meta["log_drawn"] [B, L], log b, with batch.mask [B, L] -> [B].

    Raises:
        ShapeError: Student and teacher differ in their classes, or logits, labels and column do not fit together.
        UsageError: clip is not above 0, or teacher, labels or the column are missing.

    Reference: Gu, Dong, Wei, Huang, 2023, arXiv:2306.08543, sec. 2.2, algorithm 1. Differs from the paper: the mean over a
    text's tokens, not the sum; r and w are of the student as it stands, not as it was when it wrote. The released code leaves w
    out of the first part, has r_t in A_t, and whitens padding along.

    >>> MiniLLM()
    MiniLLM(clip=0.2, normalise=True, whiten=True)
    """

    needs = frozenset({"teacher", "targets", "log_drawn"})
    drawn = 1.0
    says = ("clip", "normalise", "whiten")

    def __init__(self, clip: float = 0.2, *, normalise: bool = True, whiten: bool = True) -> None:
        super().__init__()
        self.clip = positive(clip, "MiniLLM: clip")
        self.normalise, self.whiten = normalise, whiten
        self.coupled = whiten

    def forward(self, views: Views) -> Tensor:
        """One value per sample, [B]."""
        student, teacher = both_logits(views, "MiniLLM")
        tokens_only(student, "MiniLLM")
        log_q, log_p, tokens = log_softmax(student), log_softmax(teacher), fitting_labels(views, "MiniLLM")
        of_student, mask = own(log_q, tokens), counted(views)
        advantage = self.advantage((own(log_p, tokens) - of_student).detach(), mask)
        ratio = (of_student - drawn_column(views, DRAWN, "MiniLLM")).exp()
        single = ratio.detach() * reverse_kl(log_p, log_q)
        return token_mean(single - clipped_surrogate(ratio, advantage, self.clip), mask)

    def advantage(self, rewards: Tensor, mask: Tensor) -> Tensor:
        """What follows each token, [B, L], of the log-ratios r."""
        rewards = rewards.clamp(-LARGEST, LARGEST)
        later = following(mean_returns(rewards, mask) if self.normalise else returns(rewards, mask)).where(mask, 0)
        return whitened(later, mask) if self.whiten else later
