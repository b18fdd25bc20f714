"""What Kronecker factors are made of: each layer's inputs and output gradients, under labels drawn from the model itself.

Labels drawn from the model (from the net in use, where a term changes that) make the mean outer product of gradients the true
Fisher matrix, which for cross-entropy equals the Gauss-Newton matrix; the labels as given would make it the empirical Fisher.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, cast, final, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from limbeck.core.batch import Batch
from limbeck.core.errors import UsageError
from limbeck.functional.divergences import cross_entropy, log_softmax, token_mean
from limbeck.influence.captured import gain_and_shift
from limbeck.influence.curvature.lookup import Lookup
from limbeck.influence.curvature.solver import Problem
from limbeck.influence.restoring import statistics_untouched
from limbeck.influence.task import answer_of
from limbeck.influence.vectors import Vector, trainable

ROWS = 32
"""Samples that go through the model together: what is captured of them is the memory that curvature takes."""

Fisher = Literal["true", "empirical"]

DENSE = 2_048
"""Most numbers of a normalisation's gain and shift whose curvature is a matrix of its own: its eigenvectors cost their cube."""

Layer = nn.Linear | nn.Conv1d | nn.Conv2d
Normalisation = nn.LayerNorm | nn.GroupNorm | _BatchNorm


@dataclass(frozen=True)
class Block:
    """A layer whose curvature is a Kronecker product, and the parameters that it covers.

    Args:
        layer: A linear or convolution layer, grouped ones too: one product per group.
        weight: The name of its weight.
        bias: The name of its bias, None where it has none or it is not trained.
    """

    layer: Layer
    weight: str
    bias: str | None

    def matrix(self, v: Vector) -> Tensor:
        """The layer's part of a vector as [groups, outputs, inputs (+1 for the bias)]."""
        weight = v[self.weight]
        groups = getattr(self.layer, "groups", 1)
        rows = weight.reshape(groups, weight.shape[0] // groups, -1)
        return rows if self.bias is None else torch.cat([rows, v[self.bias].reshape(groups, -1, 1)], dim=2)

    def parts(self, matrix: Tensor, like: Vector) -> Vector:
        """The inverse of `matrix`: the layer's parameters by name."""
        if self.bias is None:
            return {self.weight: matrix.reshape(like[self.weight].shape)}
        return {
            self.weight: matrix[:, :, :-1].reshape(like[self.weight].shape),
            self.bias: matrix[:, :, -1].reshape(like[self.bias].shape),
        }

    def pair(self, activation: Tensor, gradient: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """One call's inputs and output gradients, of as many samples as `count` says."""
        return by_sample(self.inputs(activation), count), by_sample(self.gradients(gradient), count)

    def inputs(self, activation: Tensor) -> Tensor:
        """The layer's input as rows that its weight multiplies: [B, groups, positions, inputs (+1)]."""
        rows = activation.unsqueeze(1) if isinstance(self.layer, nn.Linear) else _unfold(self.layer, activation)
        rows = rows.reshape(len(activation), rows.shape[1], -1, rows.shape[-1])
        return rows if self.bias is None else F.pad(rows, (0, 1), value=1.0)

    def gradients(self, gradient: Tensor) -> Tensor:
        """The gradient of the layer's output as [B, groups, positions, outputs]."""
        if isinstance(self.layer, nn.Linear):
            return gradient.reshape(len(gradient), 1, -1, gradient.shape[-1])
        return gradient.reshape(len(gradient), self.layer.groups, gradient.shape[1] // self.layer.groups, -1).transpose(2, 3)


def by_sample(part: Tensor, count: int) -> Tensor:
    """[B k, G, T, n] of a layer that saw k rows of each of `count` samples -> [B, G, k T, n]; other rows stay as they are."""
    rows, groups, _, width = part.shape
    if rows == count or rows % count:
        return part
    return part.reshape(count, rows // count, groups, -1, width).transpose(1, 2).reshape(count, groups, -1, width)


@dataclass(frozen=True)
class Gains:
    """A normalisation's gain and shift, whose curvature is one small matrix without a structure.

    They are taken as the weight of a layer with one input, the number 1: the output factor is then the mean of g g', g the
    sample's gradient in both, the input factor is 1, and what is exact for a Kronecker product is exact here.

    Args:
        layer: Layer, group, instance or batch normalisation.
        weight: The name of its gain.
        bias: The name of its shift, None where it has none or it is not trained.
    """

    layer: Normalisation
    weight: str
    bias: str | None

    def matrix(self, v: Vector) -> Tensor:
        """Gain and shift as [1, numbers, 1]."""
        return torch.cat([v[name].flatten() for name in self._names]).view(1, -1, 1)

    def parts(self, matrix: Tensor, like: Vector) -> Vector:
        """The inverse of `matrix`: gain and shift by name."""
        split = torch.split(matrix.flatten(), [like[name].numel() for name in self._names])
        return {name: part.view(like[name].shape) for name, part in zip(self._names, split, strict=True)}

    def pair(self, activation: Tensor, gradient: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """The number 1 and the samples' gradients, [B, 1, 1, 1] and [B, 1, 1, numbers]."""
        gain, shift = (part.flatten(1) for part in gain_and_shift(self.layer, activation, gradient))
        rows = gain if self.bias is None else torch.cat([gain, shift], 1)
        if len(rows) % count == 0:  # a layer that saw each sample several times
            rows = rows.view(count, -1, rows.shape[1]).sum(1)
        return rows.new_ones(len(rows), 1, 1, 1), rows[:, None, None]

    @property
    def _names(self) -> list[str]:
        return [self.weight] if self.bias is None else [self.weight, self.bias]


Covered = Block | Gains | Lookup
"""What curvature has a product for, or a small matrix of its own."""


def _unfold(layer: nn.Conv1d | nn.Conv2d, x: Tensor) -> Tensor:
    """A convolution's input patches, [B, groups, positions, inputs per group x kernel]."""
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    x = F.pad(x, layer._reversed_padding_repeated_twice, mode=mode)
    kernel, stride, dilation = (tuple(size) for size in (layer.kernel_size, layer.stride, layer.dilation))
    if isinstance(layer, nn.Conv1d):
        x, kernel, stride, dilation = x.unsqueeze(2), (1, *kernel), (1, *stride), (1, *dilation)
    patches = F.unfold(x, kernel, dilation=dilation, stride=stride)
    return patches.reshape(len(x), layer.groups, -1, patches.shape[-1]).transpose(2, 3)


@final
class Pairs(Mapping[str, list[tuple[Tensor, Tensor]]]):
    """For each block, a list over its calls of (inputs [B, G, T, I], gradients [B, G, T, O]).

    A layer's inputs are unfolded whenever they are looked at: those of all layers at once take many times what went in.

    Args:
        blocks: By module name.
        calls: What went into each, and the gradient of what came out; of a normalisation the pairs themselves, which are small.
        count: Samples.
    """

    def __init__(self, blocks: Mapping[str, Covered], calls: Mapping[str, list[tuple[Tensor, Tensor]]], count: int) -> None:
        self.blocks, self.calls, self.count = blocks, calls, count

    def __getitem__(self, name: str) -> list[tuple[Tensor, Tensor]]:
        block, calls = self.blocks[name], self.calls[name]
        return calls if isinstance(block, Gains) else [block.pair(*call, self.count) for call in calls]

    def __iter__(self) -> Iterator[str]:
        return iter(self.calls)

    def __len__(self) -> int:
        return len(self.calls)


@dataclass(frozen=True)
class Captured:
    """One batch's layer inputs and per-sample output gradients, and the squared gradient of what no block covers.

    Args:
        pairs: Inputs and output gradients, by block.
        others: For each parameter that no block covers, an estimate of its mean squared per-sample gradient, a scalar.
        count: Number of samples.
        mask: [B, L] bool, which tokens count, or None.
    """

    pairs: Pairs
    others: dict[str, Tensor]
    count: int
    mask: Tensor | None = None

    def counted(self, inputs: Tensor) -> Tensor:
        """A layer's inputs [B, G, T, I] without the padded positions, as [n, 1, 1, I], where its positions are the tokens."""
        if self.mask is None or inputs.shape[:3] != (len(self.mask), 1, self.mask.shape[1]):
            return inputs
        return inputs.transpose(1, 2)[self.mask.bool()].unsqueeze(2)


def blocks(model: nn.Module) -> dict[str, Covered]:
    """Every trained linear, convolution or normalisation layer by module name; a shared weight belongs to the first that has it.

    Embeddings come last, so that a table shared with a head is the head's. A normalisation of more than `DENSE` numbers is left
    out, and so is an embedding that divides gradients by how often a row was looked up.
    """
    names = {id(part): name for name, part in trainable(model).items()}
    found: dict[str, Covered] = {}
    taken: set[str] = set()
    for name, module in model.named_modules():
        weight = names.get(id(getattr(module, "weight", None)))
        if not isinstance(module, Layer | Normalisation) or weight is None or weight in taken:
            continue
        bias = names.get(id(module.bias))
        bias = None if bias in taken else bias
        if isinstance(module, Layer):
            found[name] = Block(module, weight, bias)
        elif module.weight.numel() * (1 if bias is None else 2) <= DENSE:
            found[name] = Gains(module, weight, bias)
        else:
            continue
        taken.update({weight, *([bias] if bias else [])})
    for name, module in model.named_modules():
        weight = names.get(id(getattr(module, "weight", None)))
        if isinstance(module, nn.Embedding) and not module.scale_grad_by_freq and weight is not None and weight not in taken:
            found[name] = Lookup(module, weight)
            taken.add(weight)
    return found


def capture(problem: Problem, fisher: Fisher = "true") -> Iterator[tuple[dict[str, Covered], Captured]]:
    """Run the model over the problem's batches; the hooks are gone after each batch, whatever happens.

    Args:
        problem: Model, task and batches.
        fisher: `true` takes gradients for labels drawn from the model, `empirical` those of the training loss as it is.
    """
    candidates = blocks(problem.model)
    for batch in problem.batches:
        for piece in batch.split(-(-len(batch) // ROWS)):
            with statistics_untouched(problem.model), torch.enable_grad():
                found = _capture(problem, candidates, piece, fisher)
            yield candidates, found  # outside: what its reader raises must not leave the switches as they are inside
            del found  # before the next piece is captured


def _capture(problem: Problem, candidates: dict[str, Covered], batch: Batch, fisher: Fisher) -> Captured:
    calls: list[tuple[str, Tensor, Tensor]] = []

    def watch(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], dict[str, Tensor], Tensor], Tensor]:
        def hook(_module: nn.Module, inputs: tuple[Tensor, ...], named: dict[str, Tensor], output: Tensor) -> Tensor:
            calls.append((name, (inputs or tuple(named.values()))[0].detach(), output))
            return output.clone()  # an in-place activation that follows then changes the copy, not what was captured

        return hook

    handles = [block.layer.register_forward_hook(watch(name), with_kwargs=True) for name, block in candidates.items()]
    try:
        answer = problem.model(batch)
    finally:
        for handle in handles:
            handle.remove()
    if fisher == "true":
        logits = answer_of(problem.task, answer, batch)
        loss = drawn_loss(logits, draw_labels(logits.detach(), problem.generator), batch.mask).sum()
    else:
        loss = problem.task.training_loss(lambda _: answer, batch).sum()
    used = {candidates[name].weight for name, *_ in calls} | {candidates[name].bias for name, *_ in calls}
    others = {name: part for name, part in trainable(problem.model).items() if name not in used}
    wanted = [output for *_, output in calls] + list(others.values())
    grads = torch.autograd.grad(loss, wanted, allow_unused=True)
    pairs: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for (name, activation, _), gradient in zip(calls, grads, strict=False):
        if gradient is not None:
            block = candidates[name]
            pair = block.pair(activation, gradient, len(batch)) if isinstance(block, Gains) else (activation, gradient)
            pairs.setdefault(name, []).append(pair)
    squares = {
        name: torch.zeros(()) if gradient is None else gradient.square().mean() / len(batch)
        for name, gradient in zip(others, grads[len(calls) :], strict=True)
    }
    return Captured(Pairs(candidates, pairs, len(batch)), squares, len(batch), batch.mask)


def check_fisher(fisher: str, who: str) -> Fisher:
    """The kind of Fisher matrix.

    Raises:
        UsageError: There is none of that name.
    """
    if fisher not in get_args(Fisher):
        raise UsageError(f"{who}: fisher must be 'true' or 'empirical', got {fisher!r}.")
    return cast("Fisher", fisher)


def draw_labels(logits: Tensor, generator: torch.Generator) -> Tensor:
    """One label for every row, drawn on the CPU from the model's own probabilities."""
    rows = log_softmax(logits).exp().flatten(0, -2).cpu()
    return torch.multinomial(rows, 1, generator=generator).view(logits.shape[:-1]).to(logits.device)


def drawn_loss(logits: Tensor, drawn: Tensor, mask: Tensor | None) -> Tensor:
    """A loss [B] whose gradient has, over drawn labels, the sample's Gauss-Newton matrix as its mean outer product.

    For a sample of L counted tokens the gradient of their mean has 1/L of that, since the labels are drawn independently;
    sqrt(L) mends it. Without it samples with many tokens would hardly count.
    """
    values = cross_entropy(logits, drawn)
    if values.dim() == 1:
        return values
    tokens = torch.ones_like(values).sum(1) if mask is None else mask.sum(1).to(values)
    return token_mean(values, mask) * tokens.sqrt()
