"""Reads inner activations by module name. The only room of the package that sets hooks for features."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
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
        self._changed: dict[bool, frozenset[str]] = {}  # by mode: taps that the model goes on to change in place, once known

    def forward(self, batch: Batch) -> Outputs:
        """What the model says of the batch.

        Raises:
            ShapeError: The model did not return one tensor of logits with one row per sample.
        """
        mode = self.model.training
        logits, taken = self._passed(batch, self._changed.get(mode, frozenset(self.tapped)))
        if mode not in self._changed:
            if taken.tracks:
                self._changed[mode] = taken.changed()
        elif taken.changed() - self._changed[mode]:  # what was read is spoiled: again, with a copy
            self._changed[mode] |= taken.changed()
            logits, taken = self._passed(batch, self._changed[mode])
        if not isinstance(logits, Tensor) or logits.dim() not in (2, 3) or len(logits) != len(batch):
            came = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ShapeError(
                f"{type(self.model).__name__} returned {came} for {len(batch)} samples; logits must be [B, C] or [B, L, V]: "
                "wrap the net in a module whose forward returns its logits alone."
            )
        return Outputs(logits, taken.features)

    def _passed(self, batch: Batch, copied: frozenset[str]) -> tuple[Tensor, "Taken"]:
        """The model's answer and what was read on the way, copies of it where named."""
        with _collect(self.model, self.tapped, copied) as taken:
            logits: Tensor = self.model(batch.inputs, mask=batch.mask) if self.takes_mask else self.model(batch.inputs)
        return logits, taken


@dataclass
class Taken:
    """What was read in a forward pass.

    Args:
        features: By name of the module.
        handed: What the model went on with, and how often that had been changed in place by then.
        tracks: Whether it is known how often: under `vmap` and in inference mode it is not.
    """

    features: dict[str, Tensor] = field(default_factory=dict)
    handed: dict[str, tuple[Tensor, int]] = field(default_factory=dict)
    tracks: bool = True

    def changed(self) -> frozenset[str]:
        """Where the model changed it in place afterwards."""
        return frozenset(name for name, (part, times) in self.handed.items() if part._version != times)


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
def _collect(model: nn.Module, names: Sequence[str], copied: frozenset[str]) -> Iterator[Taken]:
    """Collect the outputs of the named modules during a forward pass; the hooks are gone afterwards, whatever happens.

    Where it is to copy, the model goes on with the copy: an activation in place that follows then leaves what was read as it was.
    """
    taken = Taken()

    def keep(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
        def hook(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            taken.features[name] = output
            handed = output.clone() if name in copied else output
            taken.tracks = taken.tracks and _tracks(handed)
            if taken.tracks:
                taken.handed[name] = (handed, handed._version)
            return handed

        return hook

    def keep_input(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        taken.features[PENULTIMATE] = inputs[0]

    handles = [model.get_submodule(name).register_forward_hook(keep(name)) for name in names if name != PENULTIMATE]
    if PENULTIMATE in names:
        handles.append(classifier_of(model).register_forward_pre_hook(keep_input))
    try:
        yield taken
    finally:
        for handle in handles:
            handle.remove()


def _tracks(part: Tensor) -> bool:
    """Whether a change in place is counted."""
    if part.is_inference():
        return False
    probe = part.detach()[:0].clone()
    before = probe._version
    return probe.zero_()._version > before
