"""Reads inner activations by module name. The only room of the package that sets hooks for features."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from fnmatch import fnmatchcase
from typing import final

from torch import Tensor, nn

from limbeck.core.batch import Batch
from limbeck.core.checks import of_kind
from limbeck.core.errors import ShapeError, UsageError, nearest
from limbeck.core.outputs import Outputs

PENULTIMATE = "penultimate"
"""The tap that every net with a linear classifier has: what goes into its last `nn.Linear`, [B, D]."""


@final
class Tapped(nn.Module):
    """A model that is called with a batch and answers with `Outputs`; wraps, never changes, the model.

    The model is called with `batch.inputs`, and with `mask=batch.mask` where its forward takes a `mask`.

    Args:
        model: Any module whose forward returns logits, [B, C] or [B, L, V].
        taps: Names or globs (`layer?`) of modules whose outputs to return in `Outputs.features`, in the order of the model;
            `penultimate` is the input of the classifier (the last linear layer), whatever the model calls it.

    Raises:
        UsageError: The model is no torch module, or a name fits none of its modules.
    """

    def __init__(self, model: nn.Module, taps: Sequence[str] = ()) -> None:
        super().__init__()
        of_kind(model, nn.Module, "a net", "build an architecture first, such as MLP().build(spec)")
        self.model = model
        self.taps = tuple(taps)
        self.tapped = matching_modules(model, taps)
        self.takes_mask = "mask" in inspect.signature(model.forward).parameters

    def forward(self, batch: Batch) -> Outputs:
        """What the model says of the batch.

        Raises:
            ShapeError: The model did not return one tensor of logits with one row per sample.
        """
        with _collect(self.model, self.tapped) as features:
            logits = self.model(batch.inputs, mask=batch.mask) if self.takes_mask else self.model(batch.inputs)
        if not isinstance(logits, Tensor) or logits.dim() not in (2, 3) or len(logits) != len(batch):
            came = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ShapeError(
                f"{type(self.model).__name__} returned {came} for {len(batch)} samples; logits must be [B, C] or [B, L, V]: "
                "wrap the net in a module whose forward returns its logits alone."
            )
        return Outputs(logits, dict(features))


def matching_modules(model: nn.Module, patterns: Sequence[str]) -> tuple[str, ...]:
    """The names of the modules that fit any of the patterns, in the order of the model.

    Raises:
        UsageError: A pattern fits no module.
    """
    names = [name for name, _ in model.named_modules() if name]
    for pattern in patterns:
        if pattern != PENULTIMATE and not any(fnmatchcase(name, pattern) for name in names):
            own = ", ".join(name for name, _ in model.named_children())
            there = nearest(pattern, names) or (f"; those at its top are {own}." if own else "; it has none.")
            raise UsageError(f"{type(model).__name__} has no module that fits '{pattern}'{there}")
    found = tuple(name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns))
    if PENULTIMATE not in patterns:
        return found
    classifier_of(model)
    return (*found, PENULTIMATE)


def classifier_of(model: nn.Module) -> nn.Linear:
    """The model's last linear layer, which is taken for its classifier.

    Raises:
        UsageError: The model has no linear layer.
    """
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise UsageError(f"{type(model).__name__} has no linear classifier, so it has no tap '{PENULTIMATE}'; name a module.")
    return linear[-1]


def with_module(model: nn.Module, name: str, part: nn.Module) -> nn.Module:
    """A copy of the model with another module in the place of the one with this name; the part is taken as it is."""
    if not name:
        return part
    copy = deepcopy(model)
    above, _, last = name.rpartition(".")
    setattr(copy.get_submodule(above), last, part)
    return copy


def with_classifier(model: nn.Module, part: nn.Module) -> nn.Module:
    """A copy of the model with another module in the place of its classifier.

    Raises:
        UsageError: The model has no linear layer.
    """
    classifier = classifier_of(model)
    return with_module(model, next(name for name, module in model.named_modules() if module is classifier), part)


def features_of(outputs: Outputs, pattern: str, who: str) -> list[Tensor]:
    """The features that a tap's name or glob stands for, in the order of the model.

    Raises:
        UsageError: There are none: the model was not tapped so.
    """
    found = [part for name, part in outputs.features.items() if fnmatchcase(name, pattern)]
    if not found:
        came = ", ".join(outputs.features) or "none"
        raise UsageError(f"{who}: features '{pattern}' are needed, but those at hand are {came}; tap the model there.")
    return found


@contextmanager
def _collect(model: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Collect the outputs of the named modules during a forward pass; the hooks are gone afterwards, whatever happens."""
    features: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
        def hook(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            features[name] = output
            return output.clone()  # an activation in place that follows then changes the copy, not what was read

        return hook

    def keep_input(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        features[PENULTIMATE] = inputs[0]

    handles = [model.get_submodule(name).register_forward_hook(keep(name)) for name in names if name != PENULTIMATE]
    if PENULTIMATE in names:
        handles.append(classifier_of(model).register_forward_pre_hook(keep_input))
    try:
        yield features
    finally:
        for handle in handles:
            handle.remove()
