"""Completions that a causal model writes itself, row by row reproducible."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import cast, final

import torch
from torch import Tensor

from limbeck.core.cached import Cache, Cached
from limbeck.core.checks import not_negative, positive, whole
from limbeck.core.errors import RunError, ShapeError, UsageError
from limbeck.core.written import Wanted, Writes
from limbeck.functional.divergences import log_softmax

Model = Callable[[Tensor], Tensor]
"""Token ids [B, L] -> logits of the next token [B, L, V]; a place sees itself and what stands left of it."""


@dataclass(frozen=True)
class Rollout:
    """Prompts with what a model wrote behind them; padding stands on the right.

    Args:
        ids: [B, W] int64: each row its prompt, its completion, padding.
        mask: [B, W] bool, true where the model wrote; the token that ends a text is of the completion.
        log_probs: [B, W], log q(token) of the model itself, at temperature 1 and of all tokens; 0 where it did not write.
    """

    ids: Tensor
    mask: Tensor
    log_probs: Tensor


@torch.no_grad()
def generate(
    model: Model | Writes,
    prompts: Tensor,
    known: Tensor,
    *,
    length: int | Tensor,
    generators: Sequence[torch.Generator] | None = None,
    temperature: float = 1.0,
    top_p: float = 1.0,
    eos: int | None = None,
    pad: int = 0,
    vocabulary: int | None = None,
) -> Rollout:
    """Let a model go on writing, a token at a time.

    Every row draws from a generator of its own, so that what is written behind a prompt does not depend on the other rows. A
    model with a cache (`Cached`: GPT, HFModel) reads every token once. Any other causal callable will do too: it is asked for
    the whole prefix at every token, which gives the same. Whoever writes whole completions (`Writes`: Served) is asked for one
    per row, with a seed from the row's generator.

    Args:
        model: The model, in evaluation mode.
        prompts: [B, P] int64, padded on the right.
        known: [B] int64, tokens of each prompt, 1 to P.
        length: Tokens that are written at most, >= 1: for all rows, or [B].
        generators: One for each row; None only at temperature 0.
        temperature: Of the drawing, >= 0; 0 takes the most probable token.
        top_p: Draw among the most probable tokens whose mass first reaches this, in (0, 1].
        eos: The token that ends a text; None: all rows are written to their length.
        pad: The token that fills up rows.
        vocabulary: Only the first so many tokens are written, >= 1; None: all that the model knows.

    Raises:
        UsageError: A value is out of its range, or generators are missing.
        ShapeError: A prompt is empty or longer than its row.
        RunError: A server cannot be reached, or wrote tokens beyond `vocabulary`.
    """
    check_drawing(temperature, top_p, "generate")
    most = _most(prompts, known, length)
    _check_generators(generators, most, temperature)
    if isinstance(model, Writes):
        seeds = _seeds(generators, len(known), temperature)
        asking = zip(prompts.tolist(), known.tolist(), most.tolist(), seeds, strict=True)
        wanted = [Wanted(tuple(row[:count]), room, temperature, top_p, seed, eos) for row, count, room, seed in asking]
        return _completed(model, wanted, _laid_out(prompts, known, most, pad), known, vocabulary)
    draws = _draws(generators, most, temperature)
    ids, ends = _laid_out(prompts, known, most, pad), known + most
    written, log_probs = torch.zeros_like(ids, dtype=torch.bool), torch.zeros(ids.shape, device=ids.device)
    rows, place = torch.arange(len(ids), device=ids.device), known.clone()
    reader = _reader(model)
    while len(rows := rows[place[rows] < ends[rows]]):
        at = place[rows]
        log_p = log_softmax(reader(ids, rows, at)[:, :vocabulary])
        token = pick(log_p, None if draws is None else draws[rows, at - known[rows]], temperature, top_p)
        log_probs = log_probs.to(log_p.dtype)
        ids[rows, at], written[rows, at] = token, True
        log_probs[rows, at] = log_p.gather(-1, token.unsqueeze(-1)).squeeze(-1)
        place[rows] += 1
        rows = rows if eos is None else rows[token != eos]
    return Rollout(ids, written, log_probs)


Reader = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Ids [B, W], the rows [R] that go on, how many tokens each of these has [R] -> logits of their next token [R, V]."""


def _reader(model: Model) -> Reader:
    """The cheapest way of asking a model, all of which give the same."""
    cache = model.fresh_cache() if isinstance(model, Cached) else None
    return _Prefixes(model) if cache is None else _Remembered(cast("Cached", model), cache)


@final
@dataclass(frozen=True)
class _Prefixes:
    """Reads the whole prefix at every token."""

    model: Model

    def __call__(self, ids: Tensor, rows: Tensor, at: Tensor) -> Tensor:
        logits = self.model(ids[rows, : int(at.max())])
        return logits[torch.arange(len(rows), device=ids.device), at - 1]


@final
class _Remembered:
    """Reads the prompts once, moved so that they end together, and then the one token that is new."""

    def __init__(self, model: Cached, cache: Cache) -> None:
        self.model, self.cache = model, cache
        self.rows, self.seen = torch.empty(0), torch.empty(0)

    def __call__(self, ids: Tensor, rows: Tensor, at: Tensor) -> Tensor:
        if not len(self.rows):
            place = at.unsqueeze(1) - torch.arange(int(at.max()), 0, -1, device=ids.device)
            self.rows, self.seen = rows, place >= 0
            return self.model.go_on(ids[rows].gather(1, place.clamp(min=0)), self.seen, self.cache)
        if len(rows) < len(self.rows):
            left = torch.isin(self.rows, rows).nonzero().squeeze(1)
            self.rows, self.seen = rows, self.seen[left]
            self.cache.keep(left)
        self.seen = torch.cat([self.seen, torch.ones_like(self.seen[:, :1])], 1)
        return self.model.go_on(ids[rows, at - 1].unsqueeze(1), self.seen, self.cache)


def pick(log_p: Tensor, uniform: Tensor | None, temperature: float = 1.0, top_p: float = 1.0) -> Tensor:
    """The next token of each row, [B]: where the uniform number falls in the cumulated probabilities, the largest first.

    Args:
        log_p: [B, V] log-probabilities.
        uniform: [B] float64 in [0, 1); None takes the most probable token, as temperature 0 does.
        temperature: >= 0; the probabilities are softmax(log_p / temperature).
        top_p: In (0, 1]: tokens behind those whose mass first reaches it are left out.
    """
    if uniform is None or temperature == 0:
        return log_p.argmax(-1)
    p, order = (log_p.double() / temperature).softmax(-1).sort(dim=-1, descending=True, stable=True)
    kept = (p.cumsum(-1) - p < top_p) & (p > 0)
    mass = (p * kept).cumsum(-1)
    place = (mass <= uniform.unsqueeze(-1) * mass[..., -1:]).sum(-1)
    place = torch.minimum(place, kept.sum(-1) - 1)  # a product that rounds up to the whole mass
    return order.gather(-1, place.unsqueeze(-1)).squeeze(-1)


def _completed(writer: Writes, wanted: list[Wanted], ids: Tensor, known: Tensor, vocabulary: int | None) -> Rollout:
    """What somebody else writes, put behind the prompts.

    Raises:
        RunError: It wrote tokens that are not known here.
    """
    with ThreadPoolExecutor(writer.together) as pool:
        found = list(pool.map(writer.complete, wanted))
    written, log_probs = torch.zeros_like(ids, dtype=torch.bool), torch.zeros(ids.shape, device=ids.device)
    for row, (tokens, values) in enumerate(found):
        if vocabulary is not None and max(tokens) >= vocabulary:
            raise RunError(
                f"generate: {writer!r} wrote token {max(tokens)}, but the data's tokenizer has {vocabulary}; serve a model with "
                "the same tokenizer."
            )
        place = slice(int(known[row]), int(known[row]) + len(tokens))
        ids[row, place], written[row, place] = torch.tensor(tokens).to(ids), True
        log_probs[row, place] = torch.tensor(values).to(log_probs)
    return Rollout(ids, written, log_probs)


def check_drawing(temperature: float, top_p: float, who: str) -> None:
    """See that these can be drawn with.

    Raises:
        UsageError: A value is out of its range.
    """
    not_negative(temperature, f"{who}: temperature")
    if positive(top_p, f"{who}: top_p") > 1:
        raise UsageError(f"{who}: top_p must lie in (0, 1], got {top_p!r}.")


def _most(prompts: Tensor, known: Tensor, length: int | Tensor) -> Tensor:
    """How many tokens are written at most, [B].

    Raises:
        ShapeError: A prompt is empty or longer than its row.
    """
    count, longest = len(prompts), prompts.shape[1]
    if known.shape != (count,) or not bool(((known >= 1) & (known <= longest)).all()):
        raise ShapeError(
            f"generate: known must say for each of {count} prompts how many tokens it has, 1 to {longest}, got {known.tolist()}."
        )
    most = length if isinstance(length, Tensor) else torch.tensor(whole(length, "generate: length"))
    return most.to(known).expand(count)


def _laid_out(prompts: Tensor, known: Tensor, most: Tensor, pad: int) -> Tensor:
    """The prompts in rows that have room for what is to be written; whatever stood behind them is gone."""
    width = int((known + most).max()) if len(prompts) else 0
    shared = min(width, prompts.shape[1])
    ids = torch.full((len(prompts), width), pad, dtype=torch.int64, device=prompts.device)
    inside = torch.arange(shared, device=prompts.device) < known.unsqueeze(1)
    ids[:, :shared] = torch.where(inside, prompts[:, :shared], pad)
    return ids


def _check_generators(generators: Sequence[torch.Generator] | None, most: Tensor, temperature: float) -> None:
    """See that there is a generator for each row, where one is needed.

    Raises:
        UsageError: There is not.
    """
    if temperature > 0 and (generators is None or len(generators) != len(most)):
        came = "none" if generators is None else str(len(generators))
        raise UsageError(f"generate: drawing needs a generator for each of {len(most)} rows, got {came}; or take temperature=0.")


def _seeds(generators: Sequence[torch.Generator] | None, rows: int, temperature: float) -> list[int | None]:
    """A seed for every row; none where nothing is drawn."""
    if temperature == 0 or generators is None:
        return [None] * rows
    return [int(torch.randint(2**31, (), generator=own)) for own in generators]


def _draws(generators: Sequence[torch.Generator] | None, most: Tensor, temperature: float) -> Tensor | None:
    """A uniform number for every token that may be written, [B, length], the first ones the same for every length."""
    if temperature == 0 or generators is None:
        return None
    longest = int(most.max()) if len(most) else 0
    draws = [torch.rand(longest, generator=own, dtype=torch.float64) for own in generators]
    return torch.stack(draws).to(most.device) if draws else None
