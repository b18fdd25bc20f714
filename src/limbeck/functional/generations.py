"""Distillation over generations in closed form: what must come out, for tests, bounds and choices. Knows nothing of training.

Guided self-distillation is kernel ridge regression on alpha y + (1 - alpha) f_(tau - 1)(X), each generation anew (Borup and
Andersen, 2021, arXiv:2102.13088); K [n, n] is the kernel matrix, symmetric and without negative eigenvalues. Anchored
generations mix each target with the first teacher's (arXiv:2601.13100); their closed forms are derived here.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def guided_smoother(kernel: Tensor, ridge: float, alpha: float, generation: int) -> Tensor:
    """B [n, n] with f_tau(X) = B y, in the eigenbasis of K: all generations at the cost of one decomposition.

    With a = d / (d + ridge) for an eigenvalue d and r = (1 - alpha) a:
    b_tau = alpha a (1 - r^(tau - 1)) / (1 - r) + (1 - alpha)^(tau - 1) a^tau.

    Args:
        kernel: K.
        ridge: lambda, > 0.
        alpha: Share of the labels in every target, in [0, 1].
        generation: tau, >= 1; the first learns from labels alone.
    """
    values, vectors = torch.linalg.eigh(kernel)
    a = values / (values + ridge)
    r, before = (1 - alpha) * a, generation - 1
    b = alpha * a * (1 - r**before) / (1 - r) + (1 - alpha) ** before * a**generation
    smoother: Tensor = vectors @ torch.diag(b) @ vectors.T
    return smoother


def guided_limit(kernel: Tensor, ridge: float, alpha: float) -> Tensor:
    """B after infinitely many generations: ridge regression with ridge / alpha, or 0 where labels have no share."""
    if alpha == 0:
        return torch.zeros_like(kernel)
    identity = torch.eye(len(kernel), dtype=kernel.dtype, device=kernel.device)
    smoother: Tensor = torch.linalg.solve(kernel + ridge / alpha * identity, kernel, left=False)
    return smoother


def best_alpha(labels: Tensor, previous: Tensor, targets: Tensor) -> float:
    """The alpha in [0, 1] whose alpha u + (1 - alpha) w is nearest to the targets: <v - w, u - w> / |u - w|^2, then clipped.

    It is exact for kernel regression, which is linear in its targets. For deep nets it needs two trainings and no grid: one on
    labels alone, one on the previous generation alone.

    Args:
        labels: u, validation predictions of a model fitted to the labels.
        previous: w, those of a model fitted to the previous generation.
        targets: v.
    """
    apart = (labels - previous).reshape(-1)
    length = float(apart @ apart)
    along = float((targets - previous).reshape(-1) @ apart)
    return min(max(along / length, 0.0), 1.0) if length > 0 else 1.0


def anchor_after(anchor: float, generations: int) -> float:
    """The first teacher's share after so many anchored generations of students that learn all: 1 - (1 - a)^k.

    Both operators keep their form: the k-th student is the mean of the first teacher and the first student in these shares.
    """
    return 1 - (1 - anchor) ** generations


def anchored_bounds(first: float, anchor: float, generations: int, error: float = 0.0) -> list[float]:
    """Bounds of KL(b || p_k) for k = 1, 2, ...: (1 - a)^k KL(b || p_0) + error / a.

    Args:
        first: KL(b || p_0), >= 0.
        anchor: a, in (0, 1].
        generations: How many.
        error: How much each student may add by not learning all, >= 0.
    """
    return [(1 - anchor) ** k * first + error / anchor for k in range(1, generations + 1)]


def drifted(divergences: Sequence[float], anchor: float, error: float) -> bool:
    """Whether a measured KL(b || p_k), k = 0, 1, ..., has left its bound: the time to stop."""
    bounds = anchored_bounds(divergences[0], anchor, len(divergences) - 1, error)
    return any(found > bound for found, bound in zip(divergences[1:], bounds, strict=True))
