"""Every sample's gradient of a batch as its layers hold it: inputs and output gradients, written out only where that is cheaper.

One forward and one backward pass give all (`captured.py`). Inner products with K directions at once, `[K, B]`, are taken layer by
layer; of the two orders of multiplication the one with fewer operations is chosen by shape. Exact where captured products are.
Over 300 lines: all forms of a batch's gradients are made of the same calls, and stand beside each other to stay equal.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import final

import torch
from torch import Tensor, nn

from limbeck.core.batch import Batch
from limbeck.core.errors import UnsupportedModelError
from limbeck.core.outputs import Outputs
from limbeck.influence.captured import FIRST, Call, Capture, gain_and_shift, padded, slopes_of
from limbeck.influence.curvature.covered import Block, by_sample
from limbeck.influence.gradients import Loss
from limbeck.influence.vectors import Vector

NUMBERS = 2**24
"""Most numbers of per-sample gradients that are written out at a time, of one layer."""
POSITIONS = 100
"""A convolution over more of them has its samples' gradients by a convolution in groups; over fewer, unfolding it is quicker."""
HELD = 2**21
"""About how many numbers the layers may hold of the samples that go through the model together."""
Own = Callable[[str], Tensor | None]
"""K directions' part for a parameter, [K, ...]; None where none of them moves it."""


class Layers:
    """The calls of a model's layers for a batch, and what they make of inputs and output gradients.

    Args:
        model: Called with a batch, in evaluation mode; its samples do not meet (see `captured.obstacles`).
        batch: The samples.
        shared: Names of embeddings that all samples look up alike, as far as they are known (see `Capture`).

    Raises:
        UnsupportedModelError: No layer of the model was called.
    """

    def __init__(self, model: nn.Module, batch: Batch, shared: set[str] | None = None) -> None:
        self.capture, self.count = Capture(model, shared=shared), len(batch)
        with torch.enable_grad(), self.capture.recording(len(batch)):
            self.answer: Outputs = model(batch)
        if not self.capture.calls:
            raise UnsupportedModelError(f"influence: no layer of {type(model).__name__} was called; score the plain module.")
        self.parameters = self.capture.parameters
        self.ids = self.capture.names

    @property
    def names(self) -> Sequence[str]:
        """All trained parameters."""
        return list(self.parameters)

    def _names(self, call: Call) -> tuple[str | None, str | None]:
        return self.ids.get(id(call.layer.weight)), self.ids.get(id(getattr(call.layer, "bias", None)))

    def _block(self, call: Call) -> Block | None:
        """The call's layer as a matrix; None for what is none, or has a frozen weight."""
        (weight, bias), layer = self._names(call), call.layer
        if weight is None or not isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d):
            return None
        return Block(layer, weight, bias)

    def _pair(self, call: Call, block: Block) -> tuple[Tensor, Tensor]:
        assert call.gradient is not None
        return block.pair(call.inputs, call.gradient, self.count)

    def _written(self, call: Call) -> tuple[Tensor | None, Tensor | None]:
        """The gradients of a call's weight and bias, [B, ...]."""
        assert call.gradient is not None
        block, layer, d = self._block(call), call.layer, call.gradient
        if isinstance(layer, nn.Conv2d) and block is not None and len(d) == self.count and d.shape[2:].numel() > POSITIONS:
            return self._convolved(layer, call.inputs, d, bias=block.bias is not None)
        if block is not None:
            a, d = self._pair(call, block)
            matrices = d.transpose(2, 3) @ a
            kept = matrices if block.bias is None else matrices[..., :-1]
            bias = None if block.bias is None else matrices[..., -1].reshape(self.count, -1)
            return kept.reshape(self.count, *layer.weight.shape), bias
        if isinstance(layer, nn.Embedding):
            ids, slopes = call.inputs.reshape(self.count, -1), d.reshape(self.count, -1, layer.embedding_dim)
            if layer.padding_idx is not None:
                slopes = slopes * (ids != layer.padding_idx).unsqueeze(2)
            table = slopes.new_zeros(self.count, layer.num_embeddings, layer.embedding_dim)
            return table.scatter_add(1, ids.unsqueeze(2).expand_as(slopes), slopes), None
        if isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d):  # its weight is frozen
            axis = d.dim() - 1 if isinstance(layer, nn.Linear) else 1
            return None, d.movedim(axis, -1).reshape(self.count, -1, d.shape[axis]).sum(1)
        gain, shift = gain_and_shift(layer, call.inputs, d)
        return self._summed(gain), self._summed(shift)

    def _convolved(self, layer: nn.Conv2d, x: Tensor, d: Tensor, *, bias: bool) -> tuple[Tensor, Tensor | None]:
        """The same of a convolution over many positions: one convolution whose groups are the samples', nothing is unfolded."""
        x = padded(layer, x)
        shape = x.new_empty(self.count * layer.out_channels, *layer.weight.shape[1:])  # of a weight; its numbers are not read
        found = torch.ops.aten.convolution_backward(
            d.flatten(0, 1).unsqueeze(0),
            x.flatten(0, 1).unsqueeze(0),
            shape,
            None,
            layer.stride,
            [0, 0],
            layer.dilation,
            False,
            [0, 0],
            self.count * layer.groups,
            [False, True, False],
        )
        weight = found[1].reshape(self.count, *layer.weight.shape)
        return weight, d.flatten(2).sum(2) if bias else None

    def _summed(self, rows: Tensor) -> Tensor:
        """[B k, ...] -> [B, ...]."""
        return rows.reshape(self.count, -1, *rows.shape[1:]).sum(1)


@final
class Rows(Layers):
    """The gradients of a batch's samples, each of its own loss.

    Args:
        model: As for `Layers`.
        loss: One value per sample.
        batch: The samples.
        shared: As for `Layers`.

    Raises:
        UnsupportedModelError: As for `Layers`.
    """

    def __init__(self, model: nn.Module, loss: Loss, batch: Batch, shared: set[str] | None = None) -> None:
        super().__init__(model, batch, shared)
        answer = self.answer
        with torch.enable_grad():
            self.capture.backward(loss(lambda _: answer, batch).sum())
        self.size = self.capture.size
        self.calls = [call for call in self.capture.calls if call.gradient is not None]

    def whole(self, names: Sequence[str] | None = None) -> Vector:
        """The gradients written out, [B, ...] by parameter name; all parameters, or those named."""
        wanted = self.names if names is None else names
        total: Vector = {}
        for call in self.calls:
            both = self._names(call)
            if any(name in wanted for name in both):
                for name, part in zip(both, self._written(call), strict=True):
                    if name is not None and name in wanted and part is not None:
                        own = part.detach().to(self.parameters[name].dtype)
                        total[name] = total[name] + own if name in total else own
        missing = {name: self.parameters[name] for name in wanted if name not in total}
        total |= {name: part.new_zeros(self.count, *part.shape) for name, part in missing.items()}
        return {name: total[name] for name in wanted}

    def factors(self, weight: str, bias: str | None) -> list[tuple[Tensor, Tensor]] | None:
        """Of one layer, for each call, inputs [B, G, T, I] and output gradients [B, G, T, O]; None where that is not all."""
        pairs = []
        for call in self.calls:
            names, block = self._names(call), self._block(call)
            if block is not None and names == (weight, bias):
                pairs.append(self._pair(call, block))
            elif weight in names or (bias is not None and bias in names):
                return None
        return pairs

    def products(self, own: Own) -> Tensor:
        """<q_k, g_i> for K directions, [K, B].

        Args:
            own: The directions.

        Raises:
            UnsupportedModelError: No direction moves a layer that the loss reaches.
        """
        parts = [part for call in self.calls if (part := self._products(call, own)) is not None]
        if not parts:
            raise UnsupportedModelError("influence: the directions move no layer that the training loss reaches.")
        return torch.stack(parts).sum(0).detach()

    def _products(self, call: Call, own: Own) -> Tensor | None:
        assert call.gradient is not None
        weight, bias = self._names(call)
        q, q_bias = (None if name is None else own(name) for name in (weight, bias))
        if q is None and q_bias is None:
            return None
        block = self._block(call)
        if block is not None and q is not None and (block.bias is None) == (q_bias is None):
            return matrix_products(_stacked(q, q_bias, block), *self._pair(call, block))
        if isinstance(call.layer, nn.Embedding):
            assert q is not None
            slopes = call.gradient.reshape(self.count, -1, call.layer.embedding_dim)
            ids = call.inputs.reshape(self.count, -1)
            if call.layer.padding_idx is not None:
                slopes = slopes * (ids != call.layer.padding_idx).unsqueeze(2)
            return torch.stack([(one[ids] * slopes).flatten(1).sum(1) for one in q])
        parts = [
            rows_of.flatten(1) @ gradient.flatten(1).T
            for rows_of, gradient in zip((q, q_bias), self._written(call), strict=True)
            if rows_of is not None and gradient is not None
        ]
        return torch.stack(parts).sum(0)


@final
class OutputRows(Layers):
    """How every logit of a batch's samples moves with the parameters, written out.

    One pass down to the layers' outputs for each logit; what all of them share of a layer's inputs is unfolded once. In `matrix`,
    [B M, P], rows are samples and their M logits, columns the trained parameters in their order.

    Args:
        model: As for `Layers`.
        batch: The samples.
        shared: As for `Layers`.

    Raises:
        UnsupportedModelError: As for `Layers`.
    """

    def __init__(self, model: nn.Module, batch: Batch, shared: set[str] | None = None) -> None:
        super().__init__(model, batch, shared)
        logits, calls = self.answer.logits.flatten(1), self.capture.calls
        self.outputs = logits.shape[1]
        passes = [slopes_of(one.sum(), calls, retain=True) for one in logits.unbind(1)]
        self.answer = self.answer.detach()
        sizes = [part.numel() for part in self.parameters.values()]
        self.matrix = logits.new_zeros(self.count * self.outputs, sum(sizes))
        columns = dict(zip(self.parameters, torch.split(self.matrix, sizes, 1), strict=True))
        for call, *slopes in zip(calls, *passes, strict=True):
            call.edge = None
            for name, part in self._of_call(call, slopes):
                columns[name] += part

    def _of_call(self, call: Call, slopes: list[Tensor | None]) -> Iterator[tuple[str, Tensor]]:
        """What a call adds for its weight and bias, [B M, numbers], from its output gradient for each logit."""
        if all(slope is None for slope in slopes):
            return
        there = [call.layer.weight.new_zeros(call.shape) if slope is None else slope for slope in slopes]
        (weight, bias), block = self._names(call), self._block(call)
        if block is None:
            each = [self._written(replace(call, gradient=slope)) for slope in there]
            found = [None if own[0] is None else torch.stack(own, 1) for own in zip(*each, strict=True)]
        else:
            a = by_sample(block.inputs(call.inputs), self.count)
            d = [by_sample(block.gradients(one), self.count) for one in there]
            matrices = torch.cat(d, 3).transpose(2, 3) @ a
            matrices = matrices.reshape(*a.shape[:2], self.outputs, -1, a.shape[3]).transpose(1, 2)
            kept = matrices if bias is None else matrices[..., :-1]
            found = [kept, None if bias is None else matrices[..., -1]]
        for name, part in zip((weight, bias), found, strict=True):
            if name is not None and part is not None:
                yield name, part.reshape(self.count * self.outputs, -1).detach()


def rows_of(model: nn.Module, loss: Loss, batch: Batch, shared: Iterable[str] = ()) -> Iterator[Rows]:
    """The rows of a batch some samples at a time, as many as `HELD` allows; arguments and errors are those of `Rows`."""
    start, count, known = 0, FIRST, set(shared)
    while start < len(batch):
        piece = Rows(model, loss, batch.take(slice(start, start + count)), known)
        yield piece
        start, count = start + piece.count, max(1, HELD // max(1, piece.size))


@final
class Written:
    """Gradients that are written out already, in place of `Rows` where a model's layers do not give them.

    Args:
        rows: [B, ...] by parameter name.
    """

    def __init__(self, rows: Vector) -> None:
        self.rows = rows
        self.count = len(next(iter(rows.values())))

    @property
    def names(self) -> Sequence[str]:
        """All trained parameters."""
        return list(self.rows)

    def whole(self, names: Sequence[str] | None = None) -> Vector:
        """The gradients, [B, ...] by parameter name; all parameters, or those named."""
        return self.rows if names is None else {name: self.rows[name] for name in names}

    def factors(self, weight: str, bias: str | None) -> None:
        """None: nothing is known of how they came about."""
        return


def _stacked(weight: Tensor, bias: Tensor | None, block: Block) -> Tensor:
    """K directions of a layer as [K, G, O, I]."""
    groups = getattr(block.layer, "groups", 1)
    rows = weight.reshape(len(weight), groups, weight.shape[1] // groups, -1)
    return rows if bias is None else torch.cat([rows, bias.reshape(len(bias), groups, -1, 1)], 3)


def matrix_products(q: Tensor, a: Tensor, d: Tensor) -> Tensor:
    """Sum over g, t of d' Q a, [K, B]: the directions with each sample's sum of outer products, never all of these at once.

    Shapes: q [K, G, O, I], a [B, G, T, I], d [B, G, T, O].
    """
    q = q.to(a.dtype)
    count, positions, (k, groups, outputs, inputs) = len(a), a.shape[2], q.shape
    if positions == 1 and groups == 1 and k < max(outputs, inputs):  # fewer numbers to write than the gradients have
        a, d = a.reshape(count, inputs), d.reshape(count, outputs)
        if outputs <= inputs:
            moved = (q.reshape(k * outputs, inputs) @ a.T).view(k, outputs, count)
            return (moved * d.T).sum(1)
        moved = (q[:, 0].transpose(1, 2).reshape(k * inputs, outputs) @ d.T).view(k, inputs, count)
        return (moved * a.T).sum(1)
    flat, size = q.reshape(k, -1), groups * outputs * inputs
    rows = max(1, NUMBERS // size)
    found = []
    for start in range(0, count, rows):
        cut = slice(start, start + rows)
        gradients = (d[cut].transpose(2, 3) @ a[cut]).reshape(-1, size)
        found.append(flat @ gradients.T)
    return torch.cat(found, 1)
