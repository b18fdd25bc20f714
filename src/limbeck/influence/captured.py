"""Inner products and the weighted gradient from one backward pass: each layer's inputs times the gradients of its outputs.

For a layer y = L(x; theta) that is linear in its parameters, sample i's share of `<q, g_i>` is <d_i, L(x_i; q)>, with d_i the
gradient of its loss at the layer's output; and the gradient of sum_i w_i l_i is what the layer makes of (x_i, w_i d_i). So the
backward pass goes down to the layers' outputs only, and the weighted gradient costs no second one. Exact where the samples of a
batch do not meet inside the model; `ways.choose` finds out, by comparing with the forward-mode pass, which is always exact.
One file, though over 300 lines: what is captured of a layer, and the three things that are made of it, must change together.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.nn.modules.batchnorm import _BatchNorm

from limbeck.influence.vectors import Vector, trainable
from limbeck.influence.written import as_written

Leaf = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Embedding | nn.LayerNorm | nn.GroupNorm | _BatchNorm
"""Layers that are linear in their parameters and keep the samples of a batch apart (batch normalisation in evaluation mode)."""

PIECE, DEVICE_PIECE = 2**23, 2**26
"""Numbers captured of samples that go through a model together in a scoring pass, on the processor and on another device: more of
them are quicker, and take more memory."""
FIRST = 64
"""Samples that go together before it is known how many numbers are captured of each."""

CACHED = 2**19
"""Numbers of samples' gradients that are formed together on the processor: its caches still hold them when the products are
taken, and pieces of 2 MB are quicker to ask for than a whole layer's."""

POSITIONS, GROWTH = 32, 2
"""A linear layer's gradients are formed sample by sample, in one product for scores and step, from this many positions of a
sample on (with fewer, to read and write them costs more than a second product), and where they hold at most so many times the
numbers of the layer's inputs and outputs."""


@dataclass
class Each:
    """Every sample's gradient in a layer's weight and bias.

    Args:
        weight: [n, ...] of some samples after others; of a linear layer as `_sided` has it.
        bias: [B, ...] or None.
    """

    weight: list[Tensor]
    bias: Tensor | None

    def weighted(self, weights: Tensor, layer: Leaf) -> tuple[Tensor | None, Tensor | None]:
        """sum_i w_i g_i in weight and bias."""
        bias = None if self.bias is None else _combined(weights, [self.bias])
        return _sided(layer, _combined(weights, self.weight)), bias


@dataclass
class Call:
    """One call of a layer.

    Args:
        layer: The layer.
        inputs: What went in, detached, in the precision in which the layer worked.
        shape: Of what came out, [B, ...].
        edge: Where its gradient arrives in the graph, which alone holds what came out, so that memory goes as in a plain step;
            None where no gradient does, such as under `torch.no_grad`, and once a backward pass has been here.
        first: Whether no trained layer comes before it.
        gradient: The gradient of the losses' mean at the output, [B, ...]; filled in by a backward pass that keeps it.
        each: Every sample's gradient of its share of the mean, where `backward_along` formed it.
    """

    layer: Leaf
    inputs: Tensor
    shape: torch.Size
    edge: GradientEdge | None
    first: bool
    gradient: Tensor | None = None
    each: Each | None = None


def obstacles(model: nn.Module) -> list[str]:
    """Why products of captured tensors would not give this model's gradients, all reasons at once; empty where they would.

    What cannot be seen from the modules alone (samples mixed by the model's own code, a weight used outside its layer) is left
    to the comparison with the exact pass.
    """
    owners = {id(part) for module in model.modules() if isinstance(module, Leaf) for part in module.parameters(recurse=False)}
    bare = [name for name, part in trainable(model).items() if id(part) not in owners]
    mixing = [name for name, m in model.named_modules() if isinstance(m, _BatchNorm) and (m.training or m.running_mean is None)]
    lookups = [name for name, m in model.named_modules() if isinstance(m, nn.Embedding) and (m.max_norm or m.sparse)]
    said = []
    if bare:
        said.append(f"{', '.join(bare[:3])}{' ...' if len(bare) > 3 else ''}: in no layer that is linear in its parameters")
    if mixing:
        said.append(f"{mixing[0]}{' ...' if len(mixing) > 1 else ''}: batch normalisation in train mode mixes the samples")
    if lookups:
        said.append(f"{lookups[0]}: an embedding that renormalises or is sparse")
    return said


@final
class Capture:
    """Calls of a model's layers, in order, while `recording` is on.

    Args:
        model: Whose trainable parameters matter.
        shared: Names of embeddings that all samples look up alike, such as positions. What a batch of another size has shown is
            handed in: where there are as many samples as places, `[L]` ids cannot be told from one for each sample.
    """

    def __init__(self, model: nn.Module, shared: set[str] | None = None) -> None:
        self.shared = set() if shared is None else shared
        self.lookups = {id(part): name for name, part in model.named_modules() if isinstance(part, nn.Embedding)}
        self.parameters = trainable(model)
        self.names = {id(part): name for name, part in self.parameters.items()}
        self.layers = [
            module for module in model.modules()
            if isinstance(module, Leaf) and any(id(part) in self.names for part in module.parameters(recurse=False))
        ]  # fmt: skip
        self.in_place = any(getattr(module, "inplace", False) for module in model.modules())
        self.calls: list[Call] = []
        self.size = 0  # numbers captured of a sample

    def fits(self, model: nn.Module) -> bool:
        """Whether these are the parameters that the model trains now."""
        own = trainable(model)
        return own.keys() == self.parameters.keys() and all(part is self.parameters[name] for name, part in own.items())

    @contextmanager
    def recording(self, count: int) -> Iterator[None]:
        """Watch the layers; the hooks are gone afterwards, whatever happens.

        Args:
            count: Samples in the batch. What an embedding gives for all of them at once (positions) is repeated for each.
        """
        self.calls.clear()

        def hook(layer: nn.Module, inputs: tuple[Tensor, ...], named: dict[str, Tensor], output: Tensor) -> Tensor:
            assert isinstance(layer, Leaf)
            x = (inputs or tuple(named.values()))[0]
            x, first = x.detach(), not x.requires_grad
            if not isinstance(layer, nn.Embedding):
                x = x.to(output.dtype)  # as autocast does
            elif self._alike(layer, output, count):
                x, output = (part.expand(count, *part.shape[part.dim() - kept :]) for part, kept in ((x, 1), (output, 2)))
            self.calls.append(Call(layer, x, output.shape, _edge(output), first))
            return output.clone() if self.in_place else output  # an activation in place then changes the copy

        handles = [layer.register_forward_hook(hook, with_kwargs=True) for layer in self.layers]
        try:
            with as_written():
                yield
        finally:
            for handle in handles:
                handle.remove()
        self.size = sum(call.inputs.numel() + call.shape.numel() for call in self.calls) // count

    def _alike(self, layer: nn.Module, output: Tensor, count: int) -> bool:
        """Whether an embedding gave the same for all samples, once, [L, D] or [1, L, D]."""
        name = self.lookups[id(layer)]
        if (len(output) == 1 or output.dim() == 2) and len(output) != count:
            self.shared.add(name)
            return True
        return output.dim() == 2 and name in self.shared

    @property
    def together(self) -> int:
        """How many samples to take together, going by what was captured last."""
        if not self.size:
            return FIRST
        device = next(iter(self.parameters.values())).device.type
        return max(1, (PIECE if device == "cpu" else DEVICE_PIECE) // self.size)

    def backward(self, loss: Tensor) -> None:
        """Fill in the gradients at the layers' outputs.

        Args:
            loss: The mean over the batch of losses that each belong to one sample.
        """
        for call, gradient in zip(self.calls, slopes_of(loss, self.calls), strict=True):
            call.gradient, call.edge = gradient, None

    @torch.no_grad()
    def products(self, q: Vector, count: int) -> Tensor:
        """<q, g_i> for every sample, [B]; g_i is the gradient of sample i's own loss, not of its share of the mean.

        Args:
            q: The direction, by parameter name.
            count: B.
        """
        parts = [
            _along(call, call.gradient, *self._own(call.layer, q), count) for call in self.calls if call.gradient is not None
        ]
        return _sum(parts, next(iter(q.values())).new_zeros(count)) * count

    def backward_along(self, loss: Tensor, q: Vector, count: int, *, keep: bool = False) -> Tensor:
        """`backward` and `products` in one: each layer's products are taken when its output gradient comes by, and is at hand.

        Args:
            loss: As for `backward`.
            q: As for `products`.
            count: B.
            keep: Whether `gradients` will follow; else nothing of the layers is kept.
        """
        parts: list[Tensor | None] = []

        @torch.no_grad()
        def passing(call: Call, d: Tensor) -> None:
            own = self._own(call.layer, q)
            products = self._formed(call, d, own, count) if keep else None
            if products is None:
                products = _along(call, d, *own, count)
                call.gradient = d if keep else None
            if not keep or call.each is not None:
                call.inputs = call.inputs.new_empty(0)
            parts.append(products)

        def watched(call: Call, place: int) -> Callable[[tuple[Tensor | None, ...]], None]:
            def hook(slopes: tuple[Tensor | None, ...]) -> None:
                d = slopes[place]
                if d is not None:
                    passing(call, d.reshape(call.shape))

            return hook

        there = [(call, call.edge) for call in self.calls if call.edge is not None and not call.first]
        handles = [edge.node.register_prehook(watched(call, edge.output_nr)) for call, edge in there]
        ends = [call for call in self.calls if call.first]  # the pass goes no further: their nodes' hooks are not called
        try:
            slopes = slopes_of(loss, ends)
        finally:
            for handle in handles:
                handle.remove()
        for call, d in zip(ends, slopes, strict=True):
            if d is not None:
                passing(call, d)
        for call in self.calls:
            call.edge = None
        return _sum(parts, loss.new_zeros(count)) * count

    @torch.no_grad()
    def gradients(self, weights: Tensor) -> Vector:
        """The gradient of sum_i w_i l_i / B by parameter name; parameters that no call reached are left out.

        Args:
            weights: [B].
        """
        total: Vector = {}
        for call in self.calls:
            if call.each is not None:
                parts = call.each.weighted(weights, call.layer)
            elif call.gradient is not None:
                scaled = call.gradient * weights.to(call.gradient.dtype).view(-1, *[1] * (call.gradient.dim() - 1))
                parts = _backward(call.layer, call.inputs, scaled)
            else:
                continue
            for part, own in zip((call.layer.weight, getattr(call.layer, "bias", None)), parts, strict=True):
                name = self.names.get(id(part))
                if name is not None and own is not None:
                    own = own.to(self.parameters[name].dtype)
                    total[name] = own if name not in total else total[name] + own
        return total

    def _formed(self, call: Call, d: Tensor, q: tuple[Tensor | None, Tensor | None], count: int) -> Tensor | None:
        """Form every sample's gradient in weight and bias, and take its products, [B]; None where to form it is not the cheapest.

        Weighted and summed it is the step's gradient too, so that nothing else of the call is needed.
        """
        layer, x = call.layer, call.inputs
        w, b = (self.names.get(id(part)) for part in (layer.weight, getattr(layer, "bias", None)))
        if w is None:
            return None
        if isinstance(layer, nn.Linear):
            rows, slopes = x.reshape(count, -1, x.shape[-1]), d.reshape(count, -1, d.shape[-1])
            if rows.shape[1] < POSITIONS or layer.weight.numel() > GROWTH * rows.shape[1] * sum(layer.weight.shape):
                return None
            left, right = (rows, slopes) if _wide(layer) else (slopes, rows)
            size = count if d.device.type != "cpu" else max(1, CACHED // layer.weight.numel())
            along = None if q[0] is None else _sided(layer, q[0]).reshape(-1)
            weight, found = [], []
            for start in range(0, count, size):
                cut = slice(start, start + size)
                weight.append(torch.bmm(left[cut].transpose(1, 2), right[cut]))
                if along is not None:
                    found.append(_dot(weight[-1], along))
            call.each = Each(weight, None if b is None else slopes.sum(1))
            products = [torch.cat(found)] if found else []
        elif isinstance(layer, nn.LayerNorm | nn.GroupNorm | _BatchNorm):
            gain = _per_sample(layer, normalised(layer, x).mul_(d), count)
            call.each = Each([gain], None if b is None else _per_sample(layer, d, count))
            products = [] if q[0] is None else [_dot(gain, q[0].reshape(-1))]
        else:
            return None
        if call.each.bias is not None and q[1] is not None:
            products.append(_dot(call.each.bias, q[1].reshape(-1)))
        return _sum(products, d.new_zeros(count))

    def _own(self, layer: Leaf, q: Vector) -> tuple[Tensor | None, Tensor | None]:
        """A layer's part of a vector: weight and bias, None for what is not trained."""
        names = (self.names.get(id(layer.weight)), self.names.get(id(getattr(layer, "bias", None))))
        weight, bias = (None if name is None else q.get(name) for name in names)
        return weight, bias


def slopes_of(loss: Tensor, calls: Sequence[Call], *, retain: bool = False) -> list[Tensor | None]:
    """The loss's gradient at the output of each call; None where it does not reach it."""
    edges = [call.edge for call in calls if call.edge is not None]
    found = iter(torch.autograd.grad(loss, edges, retain_graph=retain, allow_unused=True) if edges else ())
    slopes = [None if call.edge is None else next(found) for call in calls]
    return [None if slope is None else slope.reshape(call.shape) for call, slope in zip(calls, slopes, strict=True)]


def _edge(output: Tensor) -> GradientEdge | None:
    """Where the gradient of a layer's output arrives.

    A linear layer on more than two dimensions gives a view of what it made. If that is changed in place, the graph leaves the
    view's node out, but not the node of what it is a view of.
    """
    whole = output._base
    if whole is not None and whole.requires_grad and whole.shape.numel() == output.shape.numel():
        output = whole if whole.is_contiguous() and output.is_contiguous() else output
    return get_gradient_edge(output) if output.requires_grad else None


def _per_sample(layer: nn.LayerNorm | nn.GroupNorm | _BatchNorm, values: Tensor, count: int) -> Tensor:
    """The sum over a sample's positions, [B, *the shape of the layer's parameters]."""
    if isinstance(layer, nn.LayerNorm):
        return values.reshape(count, -1, *layer.normalized_shape).sum(1)
    return values.reshape(count, -1, values.shape[1], values.shape[2:].numel()).sum((1, 3))


def _sum(parts: Sequence[Tensor | None], zeros: Tensor) -> Tensor:
    """The sum of those that are there; zeros where a direction moves no layer that the loss reaches."""
    there = [part for part in parts if part is not None]
    return sum(there[1:], there[0]) if there else zeros


def _wide(layer: Leaf) -> bool:
    """Whether it is a linear layer with more outputs than inputs, whose samples' gradients are quicker to form on their side."""
    return isinstance(layer, nn.Linear) and layer.out_features > layer.in_features


def _sided(layer: Leaf, weight: Tensor) -> Tensor:
    """A weight as the gradients of its samples lie, and back: of a wide linear layer [inputs, outputs]."""
    return weight.t().contiguous() if _wide(layer) else weight


def _dot(each: Tensor, along: Tensor) -> Tensor:
    """The inner product of every sample's gradient, [n, ...], with a direction, [numbers]; gives [n]."""
    return each.reshape(len(each), -1).to(along.dtype) @ along


def _combined(weights: Tensor, each: list[Tensor]) -> Tensor:
    """sum_i w_i g_i of gradients [n, ...], some samples after others."""
    precise = torch.promote_types(each[0].dtype, torch.float32)
    total = each[0].new_zeros(each[0][0].numel(), dtype=precise)
    for own, part in zip(torch.split(weights.to(each[0].dtype), [len(part) for part in each]), each, strict=True):
        flat = part.reshape(len(part), -1)
        if flat.dtype == precise:
            total.addmv_(flat.t(), own)
        else:
            total += own @ flat
    return total.reshape(each[0].shape[1:])


def _along(call: Call, d: Tensor, w: Tensor | None, b: Tensor | None, count: int) -> Tensor | None:
    """<d_i, L(x_i; w, b)> for every sample, [B]; None where the direction does not move the layer."""
    x = call.inputs
    if isinstance(call.layer, nn.Linear) and w is not None and w.shape[0] > w.shape[1]:  # fewer numbers on the input's side
        along = ((d @ w.to(d.dtype)) * x).reshape(count, -1).sum(1)
        return along if b is None else along + (d @ b.to(d.dtype)).reshape(count, -1).sum(1)
    moved = _forward(call.layer, x, w, b)
    return None if moved is None else (moved * d).reshape(count, -1).sum(1)


def looked_up(ids: Tensor, table: Tensor, padding: int | None) -> Tensor:
    """How an embedding's answer moves along `table`: padding has no gradient, even where a head that shares the table has one."""
    rows = F.embedding(ids, table)
    return rows if padding is None else rows.masked_fill((ids == padding % len(table)).unsqueeze(-1), 0)


def _forward(layer: Leaf, x: Tensor, w: Tensor | None, b: Tensor | None) -> Tensor | None:
    """The layer with these parameters, on this input; a parameter that is None counts as 0. None where both are."""
    if isinstance(layer, nn.Embedding):
        return None if w is None else looked_up(x, w, layer.padding_idx)
    if isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d):
        if w is not None:
            w, b = w.to(x.dtype), None if b is None else b.to(x.dtype)
            return F.linear(x, w, b) if isinstance(layer, nn.Linear) else layer._conv_forward(x, w, b)
        return None if b is None else b.view(-1, *[1] * (0 if isinstance(layer, nn.Linear) else x.dim() - 2))
    if w is None and b is None:
        return None
    axes = over(layer, x)
    total = torch.zeros_like(x) if w is None else normalised(layer, x) * w.view(axes)
    return total if b is None else total + b.view(axes)


def _backward(layer: Leaf, x: Tensor, d: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """The gradient of sum <d, layer(x)> in the layer's weight and bias; the kernels are those of the plain backward pass."""
    w, b = layer.weight, getattr(layer, "bias", None)
    wanted = [w is not None and w.requires_grad, b is not None and b.requires_grad]
    if isinstance(layer, nn.Embedding):
        pad = -1 if layer.padding_idx is None else layer.padding_idx
        return torch.ops.aten.embedding_dense_backward(d, x, layer.num_embeddings, pad, layer.scale_grad_by_freq), None
    if isinstance(layer, nn.Linear):
        rows, slopes = x.reshape(-1, x.shape[-1]), d.reshape(-1, d.shape[-1])
        return slopes.t() @ rows if wanted[0] else None, slopes.sum(0) if wanted[1] else None
    if isinstance(layer, nn.Conv1d | nn.Conv2d):
        return _convolution_backward(layer, x, d, wanted)
    return _normalisation_backward(layer, x, d, wanted)


def padded(layer: nn.Conv1d | nn.Conv2d, x: Tensor) -> Tensor:
    """A convolution's input with its padding written out."""
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    return F.pad(x, layer._reversed_padding_repeated_twice, mode=mode)


def _convolution_backward(
    layer: nn.Conv1d | nn.Conv2d, x: Tensor, d: Tensor, wanted: list[bool]
) -> tuple[Tensor | None, Tensor | None]:
    padding: str | Sequence[int] = layer.padding
    if layer.padding_mode != "zeros" or isinstance(padding, str):
        x, padding = padded(layer, x), [0] * len(layer.kernel_size)
    sizes = None if layer.bias is None else [len(layer.bias)]
    plain = (layer.stride, padding, layer.dilation, False, [0] * len(layer.stride), layer.groups)
    found = torch.ops.aten.convolution_backward(d, x, layer.weight.detach().to(x.dtype), sizes, *plain, [False, *wanted])
    return found[1], found[2]


def _normalisation_backward(
    layer: nn.LayerNorm | nn.GroupNorm | _BatchNorm, x: Tensor, d: Tensor, wanted: list[bool]
) -> tuple[Tensor | None, Tensor | None]:
    kernels, w, b, mask = torch.ops.aten, layer.weight, layer.bias, [False, *wanted]
    if isinstance(layer, nn.LayerNorm):
        _, mean, scale = kernels.native_layer_norm(x, layer.normalized_shape, w, b, layer.eps)
        found = kernels.native_layer_norm_backward(d.contiguous(), x, layer.normalized_shape, mean, scale, w, b, mask)
    elif isinstance(layer, nn.GroupNorm):
        x, sizes = x.contiguous(), (x.shape[0], x.shape[1], x.shape[2:].numel(), layer.num_groups)
        _, mean, scale = kernels.native_group_norm(x, w, b, *sizes, layer.eps)
        found = kernels.native_group_norm_backward(d.contiguous(), x, mean, scale, w, *sizes, mask)
    else:
        found = kernels.native_batch_norm_backward(
            d, x, w, layer.running_mean, layer.running_var, None, None, False, layer.eps, mask
        )
    return found[1], found[2]


def over(layer: Leaf, x: Tensor) -> tuple[int, ...]:
    """The shape in which a normalisation's parameters stand beside its input."""
    if isinstance(layer, nn.LayerNorm):
        return (*[1] * (x.dim() - len(layer.normalized_shape)), *layer.normalized_shape)
    return (1, x.shape[1], *[1] * (x.dim() - 2))


def gain_and_shift(layer: Leaf, x: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of a normalisation's gain and shift from its input and output gradient, each [rows, *weight.shape]."""
    axes = [axis for axis, size in enumerate(over(layer, d)) if size == 1 and axis > 0]
    both = (d * normalised(layer, x), d)
    gain, shift = ((part.sum(axes) if axes else part).reshape(-1, *layer.weight.shape) for part in both)
    return gain, shift


def normalised(layer: Leaf, x: Tensor) -> Tensor:
    """The input as a normalisation leaves it, without gain and shift."""
    if isinstance(layer, nn.LayerNorm):
        return F.layer_norm(x, layer.normalized_shape, None, None, layer.eps)
    if isinstance(layer, nn.GroupNorm):
        return F.group_norm(x, layer.num_groups, None, None, layer.eps)
    assert isinstance(layer, _BatchNorm)
    if layer.training or layer.running_mean is None:
        return F.batch_norm(x, None, None, None, None, True, 0.0, layer.eps)
    return F.batch_norm(x, layer.running_mean, layer.running_var, None, None, False, 0.0, layer.eps)
