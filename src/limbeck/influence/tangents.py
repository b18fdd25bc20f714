# ruff: noqa: ANN401 - the arguments of any call of torch pass through here
"""Tangents along q that ride on the forward pass that runs anyway, so that `<q, g_i>` needs no pass of its own.

Every operation of the model is run once, as always, and recorded for the backward pass as always; beside it, without a graph,
goes the tangent of its result. Costly operations have rules here that use fused kernels; all others are done by torch's own
forward derivatives, one operation at a time. Exact for any model that `gradients.inner_products` takes forwards, train-mode
batch normalisation included, with less time and memory than dual numbers all along: a tangent goes when the model lets go of its
tensor. Over 300 lines: the rules of all operations stand side by side.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad as fwAD
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from limbeck.core.errors import RunError, UnsupportedModelError
from limbeck.core.outputs import Outputs
from limbeck.influence.captured import looked_up
from limbeck.influence.gradients import carry, forward_rules, plain_attention, tangent_of
from limbeck.influence.restoring import random_state
from limbeck.influence.vectors import Vector, trainable
from limbeck.influence.written import as_written

Of = Callable[[Tensor], Tensor | None]
"""The tangent of a tensor; None for a tensor that does not move."""
Rule = Callable[..., Tensor | None]
"""(Of, result, the call's own arguments) -> the result's tangent."""
CHANGED = "influence: the model changes a tensor in place ({}); no tangent can follow it."


@final
class Tangents(TorchFunctionMode):
    """While it is entered, tensors that depend on the parameters have tangents: `of` gives them, zeros where there is none.

    Args:
        model: Whose trainable parameters move.
        q: The direction in which they move, by name.

    Attributes:
        largest: Numbers of the largest tangent so far.
    """

    def __init__(self, model: nn.Module, q: Vector) -> None:
        super().__init__()
        forward_rules()
        self.known = WeakTensorKeyDictionary()  # tensor -> (tangent, how often the tensor had been changed then)
        self.largest = 0
        self._around = ExitStack()
        for name, part in trainable(model).items():
            if name in q:
                self.known[part] = q[name].to(part.dtype), part._version

    def __enter__(self) -> "Tangents":
        """Begin; the graph keeps aliases of what it saves, so that a tangent goes when the model lets go of its tensor."""
        with ExitStack() as stack:
            stack.enter_context(torch.autograd.graph.saved_tensors_hooks(_alias, _unchanged))
            stack.enter_context(as_written())
            super().__enter__()  # type: ignore[no-untyped-call]
            self._around = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        """End."""
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        self._around.close()

    def of(self, value: Tensor) -> Tensor:
        """The tangent of a tensor, in its shape."""
        found = self._of(value)
        return torch.zeros_like(value) if found is None else found

    def _of(self, value: Tensor) -> Tensor | None:
        found: tuple[Tensor, int] | None = self.known.get(value)  # type: ignore[no-untyped-call]
        if found is not None and found[1] != value._version:
            raise UnsupportedModelError(CHANGED.format("through another view of it"))
        return None if found is None else found[0]

    def outputs(self, answer: Outputs) -> tuple[Tensor, ...]:
        """The tangents of logits and features."""
        return tuple(self.of(part) for part in (answer.logits, *answer.features.values()))

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """The call as it is, and the tangent of what it gives.

        Raises:
            UnsupportedModelError: The call changes a tensor that has a tangent in place.
        """
        named = dict(kwargs or {})
        parts = list(_tensors([*args, *named.values()]))
        if func in PLAIN or not any(part in self.known for part in parts):
            return func(*args, **named)
        if func in JOINT:
            result, tangent = JOINT[func](self._of, *args, **named)
            self._keep(result, tangent)
            return result
        rule = RULES.get(func) if args else None  # rules know the first argument by its place
        rng = torch.get_rng_state() if rule is None else None  # what is run twice draws the same dropout mask twice
        before = [(part, self._of(part), part._version) for part in parts]
        result = func(*args, **named)
        self._follow(func, before)
        if result is parts[0] and result._version == before[0][2]:
            return result  # what `contiguous` and the like need not change has its tangent
        moving = [part for part, own, _ in before if own is not None]
        with torch.no_grad(), random_state(rng):
            if rule is not None:
                self._keep(result, rule(self._of, result, *args, **named))
            elif func in LINEAR and args and len(moving) == 1 and moving[0] is args[0]:
                own = self.of(args[0])
                self._keep(result, func(own.clone() if result is args[0] else own, *args[1:], **named))
            else:
                self._by_dual_numbers(func, args, named, result)
        return result

    def _follow(self, func: Callable[..., Any], before: Sequence[tuple[Tensor, Tensor | None, int]]) -> None:
        """See to the arguments that a call changed in place: each with its tangent and its version before.

        Raises:
            UnsupportedModelError: There are some, and no rule says how the tangent changes.
        """
        for part, own, version in before:
            if part._version != version:
                if func not in MENDED:
                    raise UnsupportedModelError(CHANGED.format(getattr(func, "__name__", "by a call of its own")))
                if own is not None:
                    self.known[part] = own, part._version

    def _keep(self, result: Any, tangent: Any) -> None:
        """Note the tangents of a result, which may be a tensor or a sequence of them."""
        if isinstance(result, Tensor):
            if tangent is not None and result.is_floating_point():
                self.known[result] = tangent.detach().to(result.dtype), result._version
                self.largest = max(self.largest, tangent.numel())
        elif isinstance(result, list | tuple):
            for part, own in zip(result, tangent, strict=True):
                self._keep(part, own)

    def _by_dual_numbers(self, func: Callable[..., Any], args: Sequence[Any], named: Mapping[str, Any], result: Any) -> None:
        """Run one operation again on dual numbers: exact for whatever torch can differentiate forwards."""
        with plain_attention(), fwAD.dual_level():
            dual = func(*_mapped(args, self._dual), **_mapped(named, self._dual))
            self._keep(result, _mapped(dual, tangent_of))

    def _dual(self, part: Tensor) -> Tensor:
        own = self._of(part)
        # What does not move may be running statistics, which the call has moved already: it gets a copy.
        return part.detach().clone() if own is None else carry(part.detach(), own)


def _alias(saved: Tensor) -> tuple[Tensor, int]:
    """What the graph keeps of a tensor in place of the tensor itself, and how often it had been changed."""
    return saved.detach(), saved._version


def _unchanged(kept: tuple[Tensor, int]) -> Tensor:
    """What was kept.

    Raises:
        RunError: It was changed in place since.
    """
    alias, version = kept
    if alias._version != version:
        raise RunError("training: a tensor that the backward pass needs was changed in place; let the model work on a copy.")
    return alias


def _tensors(parts: Any) -> Iterator[Tensor]:
    """All tensors in nested sequences."""
    for part in parts:
        if isinstance(part, Tensor):
            yield part
        elif isinstance(part, list | tuple):
            yield from _tensors(part)


def _mapped(part: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Nested sequences and mappings with every tensor changed."""
    if isinstance(part, Tensor):
        return change(part)
    if isinstance(part, Mapping):
        return {name: _mapped(one, change) for name, one in part.items()}
    if isinstance(part, list):
        return [_mapped(one, change) for one in part]
    if isinstance(part, tuple):  # with names too, as `max` gives them
        return tuple(_mapped(one, change) for one in part)
    return part


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
