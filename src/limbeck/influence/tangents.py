# ruff: noqa: ANN401 - the arguments of any call of torch pass through here
"""Tangents along q that ride on the forward pass that runs anyway, so that `<q, g_i>` needs no pass of its own.

Every operation of the model is run once, as always, and recorded for the backward pass as always; beside it, without a graph,
goes the tangent of its result. Costly operations have rules that use fused kernels (`rules.py`); all others are done by torch's
own forward derivatives, one operation at a time. Exact for any model that `gradients.inner_products` takes forwards, train-mode
batch normalisation included, with less time and memory than dual numbers all along: a tangent goes when the model lets go of its
tensor.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad as fwAD
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from limbeck.core.errors import RunError, UnsupportedModelError
from limbeck.core.outputs import Outputs
from limbeck.influence.gradients import carry, forward_rules, plain_attention, tangent_of
from limbeck.influence.restoring import random_state
from limbeck.influence.rules import JOINT, LINEAR, MENDED, PLAIN, RULES
from limbeck.influence.vectors import Vector, trainable
from limbeck.influence.written import as_written

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
