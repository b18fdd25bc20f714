"""Divergences between softmax distributions, one value per leading position, in nats. Knows nothing of batches, masks or weights.

All are evaluated in log space and in at least float32, whatever the precision of the logits. The factor T^2 stands here
and nowhere else in the package.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def full_precision(logits: Tensor) -> Tensor:
    """Half-precision logits as float32; float32 and float64 as they are."""
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


def log_softmax(logits: Tensor, T: float = 1.0) -> Tensor:
    """Log softmax(logits / T) over the last axis, in at least float32."""
    return F.log_softmax(full_precision(logits) / T, dim=-1)


def forward_kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p || q) of log-probabilities [..., C] -> [...]. With p the teacher this is the forward, mode-covering divergence.

    A class with p = 0 adds 0, also where its log-probability is -inf.
    """
    gap = torch.where(log_p > -torch.inf, log_p - log_q, torch.zeros_like(log_p))
    return (log_p.exp() * gap).sum(-1)


def kd_divergence(student: Tensor, teacher: Tensor, T: float) -> Tensor:
    """T^2 KL(softmax(teacher / T) || softmax(student / T)) of logits [..., C] -> [...].

    T^2 keeps the size of the gradient with respect to the student's logits independent of T (Hinton et al., 2015, sec. 2).
    """
    return T**2 * forward_kl(log_softmax(teacher, T), log_softmax(student, T))


def cross_entropy(logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
    """-sum_c y_c log softmax(logits)_c with y the one-hot label mixed with `smoothing` of the uniform distribution.

    Shapes: [..., C], int64 [...] -> [...].
    """
    log_p = log_softmax(logits)
    own = -log_p.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    return own if smoothing == 0 else (1 - smoothing) * own - smoothing * log_p.mean(-1)


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
