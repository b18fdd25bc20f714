"""The terms' gradients, one by one: balancers judge by their inner products, and the step goes along their weighted sum."""

from collections.abc import Callable, Sequence
from typing import Any, final

import torch
from torch import Tensor

Gradient = Sequence[Tensor | None]
"""Leaf by leaf; None for one that the loss does not reach."""


def gramian(
    gradients: Sequence[Gradient],
    leaves: Sequence[Tensor],
    average: Callable[[Tensor], Tensor] | None = None,
    *,
    common: bool = True,
) -> Tensor:
    """The inner products of gradients, [K, K] float64.

    Args:
        gradients: K of them.
        leaves: By which they are.
        average: The mean of a tensor over all processes; None for one process.
        common: Whether the leaves are the same in all processes, so that inner products are those of the mean gradients.
    """
    filled = [[torch.zeros_like(p) if g is None else g for p, g in zip(leaves, row, strict=True)] for row in gradients]
    rows = torch.stack([torch.cat([part.reshape(-1) for part in row]) for row in filled]).double()
    if average is None:
        return rows @ rows.T
    if not common:
        return average(rows @ rows.T)
    rows = average(rows)
    return rows @ rows.T


def with_gradient(value: Tensor, leaves: Sequence[Tensor], gradients: Sequence[Gradient], factors: Tensor) -> Tensor:
    """The value with the gradient sum_k f_k g_k: the g_k are at hand, so that its backward pass goes through no net.

    Args:
        value: A scalar.
        leaves: By which it is differentiated; one that no loss reaches stays without a gradient.
        gradients: K of them.
        factors: [K].
    """
    summed = []
    for leaf, column in zip(leaves, zip(*gradients, strict=True), strict=True):
        parts = [f.to(g) * g for f, g in zip(factors, column, strict=True) if g is not None]
        if parts:
            summed.append((leaf, torch.stack(parts).sum(0)))
    found: Tensor = _Told.apply(value.detach(), [slope for _, slope in summed], *(leaf for leaf, _ in summed))
    return found


@final
class _Told(torch.autograd.Function):
    """A number whose gradient is told."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, slopes: list[Tensor], *leaves: Tensor) -> Tensor:  # noqa: ANN401 - torch's own
        """The number."""
        ctx.slopes = slopes
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401 - torch's own
        """What was told."""
        return (None, None, *(outer[0] * slope for slope in ctx.slopes))
