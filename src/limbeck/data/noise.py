"""Label noise: flips an exact number of labels by a generator that is handed in. Knows nothing of splits or of training."""

import math
from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor

from limbeck.core.checks import finite
from limbeck.core.errors import DataError, UsageError, nearest
from limbeck.data.label_file import read_labels
from limbeck.data.seeding import generator_for, seed_of
from limbeck.data.source import Source, rows_without
from limbeck.data.token_noise import TokenNoise, random_tokens, swapped

Noise = Literal["symmetric", "pair_flip", "instance_dependent"]
_CHUNK = 2048  # rows whose inputs are held in memory at once


def flip_count(rate: float, rows: int) -> int:
    """How many of the rows a rate flips: floor(rate * rows + 0.5)."""
    return math.floor(rate * rows + 0.5)


def symmetric(labels: Tensor, classes: int, rate: float, generator: torch.Generator) -> Tensor:
    """Flip exactly `flip_count` labels, each to one of the other classes with equal chance, never to its own.

    Shapes: int64 [N] -> int64 [N].
    """
    rows = torch.randperm(len(labels), generator=generator)[: flip_count(rate, len(labels))]
    shift = torch.randint(1, classes, (len(rows),), generator=generator)
    return labels.index_copy(0, rows, (labels[rows] + shift) % classes)


def pair_flip(labels: Tensor, classes: int, rate: float, generator: torch.Generator) -> Tensor:
    """Flip exactly `flip_count` labels, each to the next class; the last class goes to the first.

    Shapes: int64 [N] -> int64 [N].
    """
    rows = torch.randperm(len(labels), generator=generator)[: flip_count(rate, len(labels))]
    return labels.index_copy(0, rows, (labels[rows] + 1) % classes)


def instance_dependent(
    labels: Tensor, classes: int, rate: float, features: Callable[[Tensor], Tensor], generator: torch.Generator
) -> Tensor:
    """Flip exactly `flip_count` labels, where both whether and to what depend on the sample.

    Every row i draws its own flip rate q_i from a normal distribution around the rate with standard deviation 0.1, cut to
    [0, 1]. For every class y a matrix W_y [F, C] is drawn from the standard normal distribution; a row that flips takes its
    new class from softmax(x_i W_y) over the classes other than its own.

    Args:
        labels: int64 [N].
        classes: C, how many classes there are.
        rate: Share of flipped labels, in [0, 1).
        features: Gives the floats [R, F] of the rows int64 [R].
        generator: Where all randomness comes from.

    Reference: Xia et al., 2020, arXiv:2006.07805, appendix, algorithm 2. Differs: there each row flips by a coin of its own
    rate q_i, so that the number of flips varies and, near 0 and 1, its mean is off; here exactly `flip_count` rows flip, row i
    with a chance proportional to q_i (systematic sampling).
    """
    rates = _cut_normal(rate, len(labels), generator)
    flips = systematic_sample(rates, flip_count(rate, len(labels)), generator)
    noisy = labels.clone()
    for own in range(classes):
        rows = flips[labels[flips] == own]
        towards: Tensor | None = None
        for part in torch.split(rows, _CHUNK):
            inputs = features(part).flatten(1).float()
            if towards is None:
                towards = torch.randn(inputs.shape[1], classes, generator=generator)
            scores = (inputs @ towards).index_fill(1, torch.tensor([own]), -torch.inf)
            noisy[part] = torch.multinomial(scores.softmax(1), 1, generator=generator).squeeze(1)
    return noisy


def _cut_normal(mean: float, count: int, generator: torch.Generator) -> Tensor:
    """Draws from the normal distribution around the mean with standard deviation 0.1, cut to [0, 1], float64 [count]."""
    low, high = torch.special.ndtr((torch.tensor([0.0, 1.0], dtype=torch.float64) - mean) / 0.1)
    draws = torch.rand(count, generator=generator, dtype=torch.float64)
    rates: Tensor = mean + 0.1 * torch.special.ndtri(low + draws * (high - low))
    return rates.clamp(0, 1)


def systematic_sample(chances: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Exactly `count` distinct positions, each taken with a probability proportional to its chance (at most 1), sorted.

    Shapes: float64 [N], all at least 0 -> int64 [count].
    """
    order = torch.randperm(len(chances), generator=generator)
    share = _scaled_to(chances[order], count)
    ends = share.cumsum(0)
    start = torch.rand((), generator=generator, dtype=torch.float64)
    # Position i is taken when one of the ticks start, start + 1, ... falls between the ends before and after it.
    ticks = (start + torch.arange(count)) * (ends[-1] / max(count, 1))
    taken = torch.searchsorted(ends, ticks, right=True).clamp(max=len(order) - 1)
    return order[taken].sort().values


def _scaled_to(chances: Tensor, total: int) -> Tensor:
    """The chances scaled so that they add up to the total, none above 1."""
    share, full = chances.clamp(min=1e-9), torch.zeros(len(chances), dtype=torch.bool)
    while True:
        scaled = share * ((total - int(full.sum())) / share[~full].sum().clamp(min=1e-300))
        above = ~full & (scaled > 1)
        if not bool(above.any()):
            return torch.where(full, torch.ones_like(scaled), scaled)
        full |= above


def noisy(source: Source, rate: float, noise: str, *, seed: int) -> tuple[Tensor, Tensor | None]:
    """The labels of the source with noise, and the true labels where they are known.

    Rows of a fixed test split and of a query set that the user named keep their labels, and rows without a label stay so; the
    rate counts the other rows.
    Where the source knows no true labels and noise is added, the labels before the noise are the true ones.

    Args:
        source: Whose labels are meant; it is not changed.
        rate: Share of flipped labels, in [0, 1).
        noise: "symmetric", "pair_flip", "instance_dependent", or "human:<file>:<key>" for labels that people gave; for language
            "swapped" or "random".
        seed: The same seed flips the same labels.

    Raises:
        UsageError: The rate lies outside [0, 1), the noise is no known kind, or human labels come with a rate.
    """
    seed = seed_of(seed, source.name)
    if not 0 <= finite(rate, f"{source.name}: label_noise") < 1:
        raise UsageError(f"{source.name}: label_noise must lie in [0, 1), got {rate!r}.")
    truth = source.labels if source.truth is None else source.truth
    kinds = get_args(TokenNoise) if source.kind == "language" else get_args(Noise)
    if noise.startswith("human:") and source.kind != "language":
        if rate:
            raise UsageError(f"{source.name}: human labels bring their own noise; leave label_noise out.")
        return _human(source, noise), truth
    if noise not in kinds:
        known = ", ".join([*kinds, *([] if source.kind == "language" else ["human:<file>:<key>"])])
        raise UsageError(f"{source.name}: noise '{noise}' is none of {known}{nearest(noise, kinds) or '.'}")
    if rate == 0:
        return source.labels, source.truth
    rows = _noisy_rows(source)
    labels = source.labels.index_copy(0, rows, _flipped(source, rows, rate, noise, generator_for(seed)))
    return labels, truth


def _flipped(source: Source, rows: Tensor, rate: float, noise: str, generator: torch.Generator) -> Tensor:
    given, classes = source.labels[rows], source.outputs
    if source.kind == "language":
        mask, count = source.read(rows)[1], flip_count(rate, len(rows))
        mask = torch.ones_like(given, dtype=torch.bool) if mask is None else mask
        return (
            swapped(given, mask, count, generator)
            if noise == "swapped"
            else random_tokens(given, mask, classes, count, generator)
        )
    if noise == "symmetric":
        return symmetric(given, classes, rate, generator)
    if noise == "pair_flip":
        return pair_flip(given, classes, rate, generator)
    features = _features(source, generator)
    return instance_dependent(given, classes, rate, lambda positions: features(rows[positions]), generator)


def _features(source: Source, generator: torch.Generator) -> Callable[[Tensor], Tensor]:
    """What instance-dependent noise sees of a row: the floats themselves; of token ids the mean of random vectors."""
    if source.vocabulary is None:
        return lambda rows: source.read(rows)[0]
    table = torch.randn(source.vocabulary, 64, generator=generator)

    def mean_vector(rows: Tensor) -> Tensor:
        tokens, mask = source.read(rows)
        kept = torch.ones_like(tokens, dtype=torch.bool) if mask is None else mask
        return (table[tokens] * kept.unsqueeze(-1)).sum(1) / kept.sum(1, keepdim=True).clamp(min=1) ** 0.5

    return mean_vector


def _noisy_rows(source: Source) -> Tensor:
    """The rows whose labels noise may touch."""
    fixed = [rows for rows in (source.test_rows, source.query_rows, (~source.labelled).nonzero().squeeze(1)) if rows is not None]
    return rows_without(len(source), torch.cat(fixed))


def _human(source: Source, noise: str) -> Tensor:
    """The source's labels with those that people gave, one per row or one per row outside the fixed test split.

    Raises:
        UsageError: The words name no file and key.
        DataError: The labels do not fit the source.
    """
    file, _, key = noise.removeprefix("human:").rpartition(":")
    if not file or not key:
        raise UsageError(f"{source.name}: noise '{noise}' names no file and key; write human:<file>:<key>.")
    labels = read_labels(file, key, source.name)
    if len(labels) and int(labels.max()) >= len(source.classes):
        raise DataError(
            f"{source.name}: '{key}' in '{file}' has label {int(labels.max())}, but there are {len(source.classes)} classes."
        )
    free = source.open_rows
    if len(labels) == len(source):
        labels = labels[free]
    elif len(labels) != len(free):
        raise DataError(
            f"{source.name}: '{key}' in '{file}' has {len(labels)} labels for {len(free)} rows; give one for each row."
        )
    merged = source.labels.index_copy(0, free, labels)
    return merged if source.query_rows is None else merged.index_copy(0, source.query_rows, source.labels[source.query_rows])
