"""What Kronecker factors are made of: each layer's inputs and output gradients, under labels drawn from the model itself.

Labels drawn from the model (from the net in use, where a term changes that) make the mean outer product of gradients the true
Fisher matrix, which for cross-entropy equals the Gauss-Newton matrix; the labels as given would make it the empirical Fisher.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, cast, final, get_args

import torch
from torch import Tensor, nn

from limbeck.core.batch import Batch
from limbeck.core.errors import UsageError
from limbeck.functional.divergences import cross_entropy, log_softmax, token_mean
from limbeck.influence.curvature.covered import Covered, Gains, blocks
from limbeck.influence.curvature.solver import Problem
from limbeck.influence.restoring import statistics_untouched
from limbeck.influence.task import answer_of
from limbeck.influence.vectors import trainable
from limbeck.influence.written import as_written

ROWS = 32
"""Samples that go through the model together: what is captured of them is the memory that curvature takes."""

LOGITS = 2**24
"""Logits of tokens that are held at once: a large vocabulary takes fewer samples."""

Fisher = Literal["true", "empirical"]


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


def capture(problem: Problem, fisher: Fisher = "true") -> Iterator[tuple[dict[str, Covered], Captured]]:
    """Run the model over the problem's batches; the hooks are gone after each batch, whatever happens.

    Args:
        problem: Model, task and batches.
        fisher: `true` takes gradients for labels drawn from the model, `empirical` those of the training loss as it is.
    """
    candidates = blocks(problem.model)
    widest = max((part.out_features for part in problem.model.modules() if isinstance(part, nn.Linear)), default=1)
    for batch in problem.batches:
        tokens = 1 if batch.targets is None or batch.targets.dim() == 1 else batch.targets.shape[1]
        for piece in batch.split(-(-len(batch) // max(1, min(ROWS, LOGITS // (tokens * widest))))):
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
        with as_written():
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
