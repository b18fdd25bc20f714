"""Divergences between softmax distributions, one value per leading position, in nats. Knows nothing of batches, masks or weights.

All are evaluated in log space and in at least float32, whatever the precision of the logits. The factor T^2 stands here
and nowhere else in the package.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from limbeck.core.batch import UNLABELLED


def full_precision(logits: Tensor) -> Tensor:
    """Half-precision logits as float32; float32 and float64 as they are."""
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


def log_softmax(logits: Tensor, T: float | Tensor = 1.0) -> Tensor:
    """Log softmax(logits / T) over the last axis, in at least float32."""
    return F.log_softmax(heated(logits, T), dim=-1)


def heated(logits: Tensor, T: float | Tensor = 1.0) -> Tensor:
    """Logits / T, in at least float32; at T = 1 the logits themselves: a quotient over a vocabulary costs a pass each way."""
    plain = full_precision(logits)
    return plain if isinstance(T, int | float) and T == 1 else plain / T


def kl_summands(log_p: Tensor, log_q: Tensor) -> Tensor:
    """P (log p - log q) class by class, [..., C]; a class with p = 0 adds 0, also where its log-probability is -inf."""
    gap = log_p - log_q
    return log_p.exp() * (torch.where(log_p > -torch.inf, gap, 0.0) if _may_rule_out(log_p) else gap)


def _may_rule_out(log_p: Tensor) -> bool:
    """Whether a class may have p = 0; true also where it cannot be told.

    The guard against such classes is several passes over a vocabulary, and on the CPU a look at the least value is a tenth of
    that. Another device would have to be waited for, and in a compiled graph or under `vmap` there is no one value to look at.
    """
    if log_p.device.type != "cpu" or torch.compiler.is_compiling():
        return True
    try:
        return not bool(log_p.detach().amin() > -torch.inf)  # so that NaN, of a token that does not count, hides no -inf
    except RuntimeError:  # a transform of torch.func, or no class at all
        return True


def forward_kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p || q) of log-probabilities [..., C] -> [...]. With p the teacher this is the forward, mode-covering divergence."""
    return kl_summands(log_p, log_q).sum(-1)


def reverse_kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(q || p) of log-probabilities [..., C] -> [...]. With p the teacher this is the reverse, mode-seeking divergence."""
    return forward_kl(log_q, log_p)


def log_mixture(log_p: Tensor, log_q: Tensor, share: float) -> Tensor:
    """log(share p + (1 - share) q), share strictly between 0 and 1; a class that both rule out stays so, without a gradient."""
    ruled_out = (log_p == -torch.inf) & (log_q == -torch.inf)  # logsumexp of infinities alone has the gradient NaN
    both = torch.stack([log_p + math.log(share), log_q + math.log1p(-share)]).masked_fill(ruled_out, 0)
    return both.logsumexp(0).masked_fill(ruled_out, -torch.inf)


def jensen_shannon(log_p: Tensor, log_q: Tensor, beta: float) -> Tensor:
    """Beta KL(p || m) + (1 - beta) KL(q || m), m = beta p + (1 - beta) q; at most the entropy of (beta, 1 - beta)."""
    log_m = log_mixture(log_p, log_q, beta)
    return beta * forward_kl(log_p, log_m) + (1 - beta) * forward_kl(log_q, log_m)


def skew_kl(log_p: Tensor, log_q: Tensor, alpha: float) -> Tensor:
    """KL(p || alpha p + (1 - alpha) q); at most -log alpha. The reverse one is the same with p and q exchanged."""
    return forward_kl(log_p, log_mixture(log_p, log_q, alpha))


def total_variation(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Sum |p - q| / 2, in [0, 1]."""
    return (log_p.exp() - log_q.exp()).abs().sum(-1) / 2


def alpha_divergence(log_p: Tensor, log_q: Tensor, alpha: float) -> Tensor:
    """(sum p^alpha q^(1 - alpha) - 1) / (alpha (alpha - 1)), alpha neither 0 nor 1, whose limits are reverse and forward KL."""
    return (alpha * log_p + (1 - alpha) * log_q).logsumexp(-1).expm1() / (alpha * (alpha - 1))


def entropy(log_p: Tensor) -> Tensor:
    """-sum p log p of log-probabilities [..., C] -> [...]."""
    return -(log_p.exp() * torch.where(log_p > -torch.inf, log_p, torch.zeros_like(log_p))).sum(-1)


def softened(divergence: Callable[[Tensor, Tensor], Tensor], student: Tensor, teacher: Tensor, T: float | Tensor) -> Tensor:
    """T^2 divergence(log softmax(teacher / T), log softmax(student / T)) of logits [..., C].

    T^2 keeps the size of the gradient with respect to the student's logits independent of T (Hinton et al., 2015, sec. 2).
    """
    return T**2 * divergence(log_softmax(teacher, T), log_softmax(student, T))


def kd_divergence(student: Tensor, teacher: Tensor, T: float | Tensor) -> Tensor:
    """T^2 KL(softmax(teacher / T) || softmax(student / T)) of logits [..., C] -> [...]."""
    return softened(forward_kl, student, teacher, T)


def binary_kl(student: Tensor, teacher: Tensor, T: float) -> Tensor:
    """T^2 sum_c KL(Bernoulli(sigmoid(teacher_c / T)) || Bernoulli(sigmoid(student_c / T))) of logits [..., C] -> [...]."""
    s, t = full_precision(student) / T, full_precision(teacher) / T
    yes = t.sigmoid() * (F.logsigmoid(t) - F.logsigmoid(s))
    no = (-t).sigmoid() * (F.logsigmoid(-t) - F.logsigmoid(-s))
    return T**2 * (yes + no).sum(-1)


def log_cosh_gap(student: Tensor, teacher: Tensor, T: float) -> Tensor:
    """T^2 sum_c log cosh((student_c - teacher_c) / (2 T)) of logits [..., C] -> [...].

    It is T^2 sum_c KL(Bernoulli(1/2) || Bernoulli(d_c)) with d_c = sigmoid((student_c - teacher_c) / T), and is taken so.
    """
    gap = (full_precision(student) - full_precision(teacher)) / T
    return T**2 * (-(F.logsigmoid(gap) + F.logsigmoid(-gap)) / 2 - math.log(2)).sum(-1)


def cross_entropy(logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
    """-sum_c y_c log softmax(logits)_c with y the one-hot label mixed with `smoothing` of the uniform distribution.

    A target of -1 stands for none, and its value is 0.

    Shapes: [..., C], int64 [...] -> [...].
    """
    log_p, known = log_softmax(logits), targets != UNLABELLED
    own = -log_p.gather(-1, targets.where(known, 0).unsqueeze(-1)).squeeze(-1)
    return (own if smoothing == 0 else (1 - smoothing) * own - smoothing * log_p.mean(-1)).where(known, 0)


def token_mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """One value per sample from one per token: the mean over the tokens that count.

    Shapes: [B] (returned as it is) or [B, L] with mask [B, L] bool or None -> [B]. A sample without any counted token gives 0.
    Masked values never contribute, also where they are NaN.
    """
    if values.dim() == 1:
        return values
    if mask is None:
        return values.mean(1)
    kept = torch.where(mask, values, torch.zeros_like(values))
    return kept.sum(1) / mask.sum(1).clamp(min=1)
