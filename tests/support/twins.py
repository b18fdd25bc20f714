"""A fast form against the obvious one: values, gradients and second derivatives."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.testing import assert_close

CLOSE = {"rtol": 1e-10, "atol": 1e-10}


def assert_twins(fast: Callable[[], Tensor], slow: Callable[[], Tensor], leaves: Sequence[Tensor]) -> None:
    """Both give the same numbers, and so do their gradients and the derivative of the gradients along some direction."""
    found = []
    for form in (fast, slow):
        values = form()
        weights = torch.linspace(0.5, 1.5, values.numel(), dtype=values.dtype).reshape(values.shape)
        gradients = torch.autograd.grad((values * weights).sum(), leaves, create_graph=True)
        along = sum((slope * (1 + leaf.detach())).sum() for slope, leaf in zip(gradients, leaves, strict=True))
        second = torch.autograd.grad(along, leaves, allow_unused=True)
        second = tuple(torch.zeros_like(leaf) if part is None else part for part, leaf in zip(second, leaves, strict=True))
        found.append((values, *gradients, *second))
    for one, other in zip(*found, strict=True):
        assert_close(one, other, **CLOSE)
