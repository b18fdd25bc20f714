# ruff: noqa: ANN401 - the arguments of any call of torch pass through here
"""How single operations carry a tangent on: rules for those that cost, with fused kernels, and what kind the others are."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from limbeck.influence.captured import looked_up

Of = Callable[[Tensor], Tensor | None]
"""The tangent of a tensor; None for a tensor that does not move."""
Rule = Callable[..., Tensor | None]
"""(Of, result, the call's own arguments) -> the result's tangent."""


def _total(*parts: Tensor | None) -> Tensor | None:
    """The sum of those that are there."""
    there = [part for part in parts if part is not None]
    return None if not there else sum(there[1:], there[0])


def _affine(layer: Callable[..., Tensor]) -> Rule:
    """Linear layers and convolutions: L(tx; W) + L(x; tW, tb)."""

    def rule(of: Of, result: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None = None, *more: Any,
             **named: Any) -> Tensor | None:  # fmt: skip
        tx, tw, tb = of(x), of(weight), None if bias is None else of(bias)
        from_input = None if tx is None else layer(tx, weight, None, *more, **named)
        if tw is None:
            moved = None if tb is None else tb.view(-1, *[1] * (weight.dim() - 2))
            return _total(from_input, None if moved is None else moved.expand_as(result))
        own = layer(x, tw, tb, *more, **named)
        return own if from_input is None else from_input.add_(own)

    return rule


def _batch_norm(of: Of, x: Tensor, mean: Tensor | None, var: Tensor | None,
                weight: Tensor | None = None, bias: Tensor | None = None, training: bool = False, momentum: float = 0.1,
                eps: float = 1e-5) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """Tangent gain scale tx + slope xhat + level, with one slope and one level a channel.

    slope = tgain - gain scale mean(tx xhat), level = tshift - gain scale mean(tx); the means are those of the batch where its
    statistics normalise, and 0 where running ones do.
    """
    running = None if training or mean is None or var is None else (var, mean)
    at_once = running is None and x.device.type == "cpu" and x.numel() > x.shape[1]  # else `F.batch_norm` says what is wrong
    if at_once:  # what `F.batch_norm` calls there; it gives the batch's statistics too, which cost a pass of their own
        result, centre, scale = torch.native_batch_norm(x, weight, bias, mean, var, True, momentum, eps)
    else:
        result = F.batch_norm(x, mean, var, weight, bias, training, momentum, eps)
    tx, tw, tb = of(x), None if weight is None else of(weight), None if bias is None else of(bias)
    if tx is None and tw is None and tb is None:
        return result, None
    with torch.no_grad():
        if not at_once:
            spread, centre = _statistics(x) if running is None else running
            scale = (spread + eps).rsqrt()
        gain = torch.ones_like(scale) if weight is None else weight
        slope, level = (torch.zeros_like(scale) if part is None else part for part in (tw, tb))
        if running is None and tx is not None:  # the sums of tx xhat and of tx, by the kernel that makes them for gain and shift
            only_sums = [False, True, True]
            sums = torch.ops.aten.native_batch_norm_backward(tx, x, weight, None, None, centre, scale, True, eps, only_sums)[1:]
            along, total = (part * (x.shape[1] / x.numel()) for part in sums)
            slope, level = slope - gain * scale * along, level - gain * scale * total
        own = torch.addcmul(_along(level - centre * scale * slope, x), x, _along(scale * slope, x))
        tangent = own if tx is None else own.addcmul_(tx, _along(gain * scale, x))
        return result, tangent


def _statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Every channel's variance and mean over [B, C, ...], in single precision at least, as torch's kernels take them."""
    precise = x if x.dtype == torch.float64 else x.float()
    spread, centre = torch.var_mean(precise, [0, *range(2, x.dim())], correction=0)
    return spread, centre


def _along(values: Tensor, x: Tensor) -> Tensor:
    """One value per channel, in a shape that fits [B, C, ...]."""
    return values.view(1, -1, *[1] * (x.dim() - 2))


def _relu(of: Of, result: Tensor, x: Tensor, inplace: bool = False) -> Tensor | None:
    tx = of(x)
    return None if tx is None else torch.ops.aten.threshold_backward(tx, result, 0)


def _add(of: Of, result: Tensor, x: Tensor | float, other: Tensor | float, *, alpha: float = 1) -> Tensor | None:
    tx, ty = (of(part) if isinstance(part, Tensor) else None for part in (x, other))
    if ty is not None and alpha != 1:
        ty = alpha * ty
    total = _total(tx, ty)
    return None if total is None else total.expand_as(result)


def _matmul(of: Of, result: Tensor, x: Tensor, other: Tensor) -> Tensor | None:
    tx, ty = of(x), of(other)
    return _total(None if tx is None else tx @ other, None if ty is None else x @ ty)


def _pad(of: Of, result: Tensor, x: Tensor, pad: Sequence[int], mode: str = "constant", value: object = None) -> Tensor | None:
    tx = of(x)
    return None if tx is None else F.pad(tx, pad, mode)


def _embedding(of: Of, result: Tensor, ids: Tensor, weight: Tensor, padding_idx: int | None = None, *more: object,
               **named: object) -> Tensor | None:  # fmt: skip
    tw = of(weight)
    return None if tw is None else looked_up(ids, tw, padding_idx)


def _softmax(of: Of, result: Tensor, x: Tensor, dim: int = -1, *more: object, **named: object) -> Tensor | None:
    """The softmax's Jacobian is symmetric too."""
    tx = of(x)
    return None if tx is None else torch.ops.aten._softmax_backward_data(tx.to(result.dtype), result, dim, result.dtype)


def _layer_norm(of: Of, result: Tensor, x: Tensor, shape: Sequence[int],
                weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5) -> Tensor | None:  # fmt: skip
    """As for batch normalisation: the normalisation's Jacobian is symmetric, the gain stands outside."""
    tx, tw, tb = of(x), None if weight is None else of(weight), None if bias is None else of(bias)
    plain, mean, scale = torch.ops.aten.native_layer_norm(x, shape, None, None, eps)
    moved = None
    if tx is not None:
        mask = [True, False, False]
        moved = torch.ops.aten.native_layer_norm_backward(tx, x, shape, mean, scale, None, None, mask)[0]
        moved = moved if weight is None else moved * weight
    own = None if tw is None else plain * tw
    return _total(moved, own, None if tb is None else tb.expand_as(x))


RULES: Mapping[Any, Rule] = {
    F.linear: _affine(F.linear),
    F.conv1d: _affine(F.conv1d),
    F.conv2d: _affine(F.conv2d),
    F.layer_norm: _layer_norm,
    F.pad: _pad,
    F.relu: _relu,
    torch.relu: _relu,
    torch.relu_: _relu,
    Tensor.relu: _relu,
    Tensor.relu_: _relu,
    Tensor.add_: _add,
    Tensor.__iadd__: _add,
    Tensor.add: _add,
    Tensor.__add__: _add,
    Tensor.__radd__: _add,
    torch.add: _add,
    torch.matmul: _matmul,
    Tensor.matmul: _matmul,
    Tensor.__matmul__: _matmul,
    F.embedding: _embedding,
    F.softmax: _softmax,
    torch.softmax: _softmax,
    Tensor.softmax: _softmax,
}
"""Operations that cost, with rules that use fused kernels."""

JOINT: Mapping[Any, Callable[..., tuple[Tensor, Tensor | None]]] = {F.batch_norm: _batch_norm}
"""Operations whose tangent needs what the operation finds on its way: value and tangent from one rule."""

LINEAR = frozenset(
    {
        torch.flatten, Tensor.flatten, Tensor.unflatten, Tensor.view, Tensor.reshape, torch.reshape, Tensor.transpose,
        torch.transpose, Tensor.permute, torch.permute, Tensor.mean, torch.mean, Tensor.sum, torch.sum, Tensor.__getitem__,
        Tensor.contiguous, Tensor.clone, Tensor.unsqueeze, Tensor.squeeze, Tensor.expand, Tensor.to, Tensor.float, Tensor.neg,
        F.adaptive_avg_pool2d, F.adaptive_avg_pool1d, F.avg_pool2d, F.avg_pool1d, F.dropout, F.dropout1d, F.dropout2d,
        Tensor.split, Tensor.chunk, torch.split, torch.chunk, Tensor.unbind, torch.unbind,
    }
)  # fmt: skip
"""Operations that are linear in their first argument: the same call, on its tangent."""
MENDED = frozenset({F.relu, torch.relu_, Tensor.relu_, Tensor.add_, Tensor.__iadd__, F.dropout, F.embedding, F.instance_norm})
"""Calls that may change an argument in place, and what becomes of its tangent does not need the old value."""
PLAIN = frozenset(
    {
        Tensor.detach, Tensor.size, Tensor.dim, Tensor.numel, Tensor.is_floating_point, Tensor.register_hook, Tensor.retain_grad,
        *(getattr(Tensor, name).__get__ for name in ("shape", "dtype", "device", "ndim", "requires_grad", "is_leaf", "grad_fn")),
    }
)  # fmt: skip
"""Calls whose result has no tangent, and attributes that have none."""
