"""Means over seeds with their intervals, and curves over seeds. Numbers only: knows nothing of figures or pages."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from limbeck.report.reading import Samples

Array = NDArray[np.float64]


@final
@dataclass(frozen=True)
class Interval:
    """A mean over seeds and its two-sided 95 % t-interval; low and high are None with fewer than two seeds."""

    mean: float
    low: float | None
    high: float | None
    seeds: int


def known(values: Iterable[float | None]) -> list[float]:
    """The values that are finite numbers."""
    return [float(value) for value in values if value is not None and math.isfinite(value)]


def mean(values: Iterable[float | None]) -> float | None:
    """The mean of the finite values, None when there is none."""
    found = known(values)
    return sum(found) / len(found) if found else None


def interval(values: Iterable[float | None]) -> Interval | None:
    """The mean and mean -+ t(0.975, n - 1) s / sqrt(n) of the finite values, None when there is none."""
    found = known(values)
    if not found:
        return None
    centre = sum(found) / len(found)
    if len(found) < 2:
        return Interval(centre, None, None, len(found))
    from scipy.stats import t

    half = float(t.ppf(0.975, len(found) - 1)) * float(np.std(found, ddof=1)) / math.sqrt(len(found))
    return Interval(centre, centre - half, centre + half, len(found))


def differences(ours: Sequence[float | None], theirs: Sequence[float | None]) -> list[float]:
    """Ours minus theirs, seed by seed, of the seeds where both are known."""
    pairs = zip(ours, theirs, strict=False)
    return known(a - b for a, b in pairs if a is not None and b is not None)


@final
@dataclass(frozen=True)
class Band:
    """A curve over seeds: x [P], its mean and the lowest and highest seed [P] each."""

    x: list[float]
    mean: list[float]
    low: list[float]
    high: list[float]


def band(curves: Mapping[object, Mapping[float, list[float]]]) -> Band | None:
    """One curve per seed (x -> values there) put together; several values of one seed at one x count as their mean."""
    at: dict[float, list[float]] = defaultdict(list)
    for curve in curves.values():
        for x, values in curve.items():
            at[x].append(sum(values) / len(values))
    if not at:
        return None
    xs = sorted(at)
    return Band(xs, [sum(at[x]) / len(at[x]) for x in xs], [min(at[x]) for x in xs], [max(at[x]) for x in xs])


def learning_band(metrics: Iterable[Mapping[str, Any]], arm: str, phase: str, path: tuple[str, ...]) -> Band | None:
    """The value at `path` of each of the arm's records against the epoch, over seeds."""
    curves: dict[object, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for record in metrics:
        if record.get("arm") != arm or record.get("phase") != phase:
            continue
        value: Any = record
        for name in path:
            value = value.get(name) if isinstance(value, Mapping) else None
        epoch = record.get("epoch")
        if _number(value) and _number(epoch):
            curves[record.get("seed")][float(epoch)].append(float(value))  # type: ignore[arg-type]
    return band(curves)


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


@final
@dataclass(frozen=True)
class FoundCurve:
    """The share of flips found when the samples are looked at in order of `rank_by`, mean over seeds.

    Attributes:
        looked: Shares of samples looked at, [P], from 0 to 1.
        found: Shares of flips found, [P]; low and high are those of the lowest and the highest seed.
        flipped: Share of flipped samples, mean over seeds.
    """

    looked: list[float]
    found: list[float]
    low: list[float]
    high: list[float]
    flipped: float


def found_curve(samples: Samples, rank_by: Array, points: int = 101) -> FoundCurve | None:
    """Share of flips among the top share of samples, `rank_by` [R] descending, ties in their expected order.

    None when no seed has a flipped and a clean training sample, or none of them a rank.
    """
    grid = np.linspace(0.0, 1.0, points)
    curves, shares = [], []
    usable = (samples.split == "train") & samples.truth_known & np.isfinite(rank_by)
    for seed in np.unique(samples["seed"]):
        rows = usable & (samples["seed"] == seed)
        hit = samples.flipped[rows]
        if hit.any() and not hit.all():
            curves.append(np.interp(grid, *_lorenz(rank_by[rows], hit)))
            shares.append(float(hit.mean()))
    if not curves:
        return None
    every = np.stack(curves)
    return FoundCurve(grid.tolist(), every.mean(0).tolist(), every.min(0).tolist(), every.max(0).tolist(), float(np.mean(shares)))


def _lorenz(rank_by: Array, hit: NDArray[np.bool_]) -> tuple[Array, Array]:
    """Shares looked at and found after each group of equal ranks: a straight line within a group is its expected order."""
    order = np.argsort(-rank_by, kind="stable")
    ranks, hits = rank_by[order], np.cumsum(hit[order])
    last = np.append(np.flatnonzero(np.diff(ranks)), len(ranks) - 1)
    looked = np.concatenate([[0.0], (last + 1) / len(ranks)])
    return looked, np.concatenate([[0.0], hits[last] / hits[-1]])


def own_loss(samples: Samples) -> Array:
    """Each sample's own loss under the trained student: -log of its probability of the given label, in nats, [R]."""
    return -np.log(np.clip(samples["student_prob"], 1e-12, 1.0))


def scaled_score(samples: Samples) -> Array:
    """The score over the root mean square of its seed's training rows, so that seeds can be put side by side, [R]."""
    scaled = np.full(len(samples), np.nan)
    for seed in np.unique(samples["seed"]):
        rows = (samples["seed"] == seed) & (samples.split == "train") & np.isfinite(samples["score"])
        if rows.any():
            rms = math.sqrt(float(np.mean(samples["score"][rows] ** 2)))
            scaled[rows] = samples["score"][rows] / (rms or 1.0)
    return scaled


def rank(samples: Samples, row: int) -> tuple[int, int]:
    """The place of a row's score among its seed's training rows, 1 = most harmful, and how many there are."""
    rows = (samples["seed"] == samples["seed"][row]) & (samples.split == "train") & np.isfinite(samples["score"])
    return int((samples["score"][rows] > samples["score"][row]).sum()) + 1, int(rows.sum())
