"""A distribution over classes as the target against the rest, and the classes of the rest among themselves.

KL(p || q) = target_kl + (1 - p_y) others_kl holds exactly (Zhao et al., 2022, arXiv:2203.08679, sec. 3). Knows nothing of T.
"""

import torch
from torch import Tensor

from limbeck.functional.divergences import forward_kl, log_softmax


def own(log_p: Tensor, targets: Tensor) -> Tensor:
    """Log p_y of log-probabilities [..., C] and int64 [...] -> [...]."""
    return log_p.gather(-1, targets.unsqueeze(-1)).squeeze(-1)


def others(log_p: Tensor, targets: Tensor) -> Tensor:
    """The entries of all classes but the target, in their order: [..., C], int64 [...] -> [..., C - 1].

    They are picked and not masked: no infinity is made whose product with 0 would have to be mended.
    """
    places = torch.arange(log_p.shape[-1] - 1, device=log_p.device)
    return log_p.gather(-1, places + (places >= targets.unsqueeze(-1)))


def target_kl(log_p: Tensor, log_q: Tensor, targets: Tensor) -> Tensor:
    """KL between (p_y, 1 - p_y) and (q_y, 1 - q_y), of log-probabilities [..., C] -> [...]."""
    two_p, two_q = (
        torch.stack([own(log, targets), others(log, targets).logsumexp(-1)], -1)  # never log(1 - exp(.))
        for log in (log_p, log_q)
    )
    return forward_kl(two_p, two_q)


def others_kl(log_p: Tensor, log_q: Tensor, targets: Tensor) -> Tensor:
    """KL between p and q without the target, each normalised anew, of log-probabilities [..., C] -> [...]; 0 for two classes."""
    return forward_kl(log_softmax(others(log_p, targets)), log_softmax(others(log_q, targets)))
