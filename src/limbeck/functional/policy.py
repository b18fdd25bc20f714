"""Policy gradients of sequences that were drawn: returns, advantages, clipped surrogates. Knows nothing of models or batches."""

import torch
from torch import Tensor


def mean_returns(rewards: Tensor, mask: Tensor) -> Tensor:
    """(r_t + ... + r_T) / (T - t + 1): the mean of the rewards from each counted token on, [B, L]; 0 at the others."""
    return returns(rewards, mask) / _reversed_cumsum(mask.to(rewards.dtype)).clamp(min=1)


def returns(rewards: Tensor, mask: Tensor) -> Tensor:
    """r_t + ... + r_T over the counted tokens, [B, L] and [B, L] bool; 0 at the others."""
    return _reversed_cumsum(rewards.where(mask, 0)).where(mask, 0)


def following(values: Tensor) -> Tensor:
    """Each place gets what stands right of it, the last one 0: [B, L] -> [B, L]."""
    return torch.cat([values[:, 1:], torch.zeros_like(values[:, :1])], 1)


def whitened(values: Tensor, mask: Tensor) -> Tensor:
    """Mean 0 and variance 1 over all counted tokens of the batch, [B, L]; 0 at the others."""
    count, kept = mask.sum().clamp(min=1), values.where(mask, 0)
    centred = (kept - kept.sum() / count).where(mask, 0)
    return centred * (centred.square().sum() / count + 1e-8).rsqrt()


def group_advantages(rewards: Tensor, group: int) -> Tensor:
    """(R - mean) / (std + 1e-4) within each group of consecutive rows, std that of a sample: [B] -> [B].

    Reference: Shao et al., 2024, DeepSeekMath, arXiv:2402.03300, sec. 4.1.2.
    """
    grouped = rewards.view(-1, group)
    spread = grouped.std(1, keepdim=True) + 1e-4
    return ((grouped - grouped.mean(1, keepdim=True)) / spread).view(-1)


def clipped_surrogate(ratio: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """min(ratio A, clip(ratio, 1 - clip, 1 + clip) A), to be made large.

    Reference: Schulman et al., 2017, PPO, arXiv:1707.06347, eq. 7.
    """
    return torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)


def k3(log_q: Tensor, log_p: Tensor) -> Tensor:
    """Of drawn tokens, p / q - 1 - log(p / q): drawn from q, its mean is KL(q || p); nowhere below 0.

    Reference: Schulman, 2020, "Approximating KL divergence".
    """
    gap = log_p - log_q
    return gap.expm1() - gap


def _reversed_cumsum(values: Tensor) -> Tensor:
    return values.flip(1).cumsum(1).flip(1)
