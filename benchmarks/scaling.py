"""How the time and memory of scoring grow with samples, parameters, queries and batch size: exponents, a plot, a page.

    python benchmarks/scaling.py
    python benchmarks/scaling.py --render

The first call measures and writes `benchmarks/results/scaling.json`; `--render` makes docs/scaling.md and its plot of it (the
plot needs matplotlib, which the extra `bench` brings). Each point is the median of `--rounds` rounds in which all points take
turns, each in a process of its own, one thread; time is the processor's, memory is resident memory above what was there before
scoring.
"""

import argparse
import json
import math
import multiprocessing
import os
import statistics
import sys
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from attribution import peak, resident
from ended import ended
from limbeck import EKFAC, Batch, Supervised, Tapped, score, score_matrix
from limbeck.influence.curvature.solver import Problem

ROOT = Path(__file__).parent
RESULTS, PAGE, PLOT = (
    ROOT / "results" / "scaling.json",
    ROOT.parent / "docs" / "scaling.md",
    ROOT.parent / "docs" / "images" / "scaling.svg",
)
CLASSES, FEATURES = 10, 64


@dataclass(frozen=True)
class Point:
    """One measurement: an MLP with one wide hidden layer pair, random samples.

    Args:
        samples: Training samples.
        width: Of the two hidden layers; parameters grow with its square.
        queries: Query samples.
        batch: Samples in a batch.
    """

    samples: int = 2048
    width: int = 256
    queries: int = 32
    batch: int = 256

    @property
    def parameters(self) -> int:
        """Of the model."""
        return sum(part.numel() for part in self.net().parameters())

    def net(self) -> nn.Module:
        """The model; time does not depend on what it has learnt."""
        torch.manual_seed(0)
        wide = self.width
        return nn.Sequential(
            nn.Linear(FEATURES, wide), nn.ReLU(), nn.Linear(wide, wide), nn.ReLU(), nn.Linear(wide, CLASSES)
        )  # fmt: skip


AXES: dict[str, list[Point]] = {
    "samples": [Point(samples=count) for count in (512, 1024, 2048, 4096, 8192, 16384)],
    "parameters": [Point(width=width) for width in (64, 128, 256, 512, 1024)],
    "queries": [Point(queries=count) for count in (8, 16, 32, 64, 128)],
    "batch": [Point(batch=size) for size in (16, 32, 64, 128, 256, 512, 1024)],
}
CALLS = {"prepare": "EK-FAC, estimated", "score": "mean query: `score`", "matrix": "every query: `score_matrix`"}
EXPECTED = {
    "samples": {"prepare": "1", "score": "1", "matrix": "1"},
    "parameters": {"prepare": "1 to 1.5", "score": "1", "matrix": "1"},
    "queries": {"prepare": "0", "score": "0", "matrix": "1"},
    "batch": {"prepare": "0", "score": "0", "matrix": "0"},
}
WHY = {
    "samples": "One pass over the data, whatever is asked.",
    "parameters": "Products with the layers' weights; the eigenvectors of a layer cost the cube of its width, P^1.5.",
    "queries": "`score` takes the queries' mean gradient: their number hardly matters beside the training samples.",
    "batch": "The same work in more or fewer calls. Captured tensors are cut to pieces of a fixed size.",
}
HEAD = """\
# How scoring scales

    python benchmarks/scaling.py

Made by `benchmarks/scaling.py`; no figure is typed in. torch {torch}, one thread, processor time, median of {rounds} round(s). An
MLP with two hidden layers of one width on random samples; where nothing else is said {samples} samples, width {width}
({parameters:,} parameters), {queries} queries, batches of {batch}, EK-FAC. Memory is the peak above what was there before the
call; the samples themselves are not counted.

![Time and memory over samples, parameters, queries and batch size](images/scaling.svg)

## Exponents

The slope of log cost over log size, fitted over the larger half of the points, where fixed costs have faded: 1 is linear, 0 is no
growth. Memory below a few MB is noise.

| over | call | time | as it should be | memory |
|---|---|---|---|---|
"""


def value(axis: str, point: Point) -> int:
    """Where a point stands on an axis."""
    return point.parameters if axis == "parameters" else getattr(point, axis)


def batches(count: int, size: int) -> list[Batch]:
    """Random samples."""
    generator = torch.Generator().manual_seed(count)
    x, y = torch.randn(count, FEATURES, generator=generator), torch.randint(0, CLASSES, (count,), generator=generator)
    rows = torch.arange(count)
    return [Batch(x[part], y[part], part) for part in rows.split(size)]


def job(point: Point, file: Path) -> None:
    """Measure one point: seconds and bytes of each call."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    model, task = Tapped(point.net()), Supervised()
    few = batches(32, 16)
    list(score_matrix(model, task, few, few)), score(model, task, few, few)  # torch loads its parts
    train, asked = batches(point.samples, point.batch), batches(point.queries, point.batch)
    solver, found = EKFAC(), {}
    for call in CALLS:
        before, began = resident(), time.process_time()
        if call == "prepare":
            solver.update(Problem(model, task, train, torch.Generator().manual_seed(0)))
            solver.update = lambda *_: None  # type: ignore[method-assign] - kept for both scores
        elif call == "score":
            score(model, task, train, asked, solver)
        else:
            for _ in score_matrix(model, task, train, asked, solver):
                pass
        found[call] = {"seconds": time.process_time() - began, "bytes": max(peak() - before, 1)}
    file.write_text(json.dumps(found))


def measured(point: Point) -> dict:
    """A point's figures from a new process."""
    file = Path(f"/tmp/scaling-{os.getpid()}.json")
    process = multiprocessing.get_context("forkserver").Process(target=job, args=(point, file))
    process.start()
    process.join()
    if process.exitcode:
        sys.exit(f"scaling: {point} failed.")
    found = json.loads(file.read_text())
    file.unlink()
    return found


def exponent(sizes: list[float], costs: list[float]) -> float:
    """The slope of log cost over log size, by least squares over the larger half of the points, where fixed costs have faded."""
    pairs = [(math.log(size), math.log(cost)) for size, cost in zip(sizes, costs, strict=True)][len(sizes) // 2 - 1 :]
    mean = [statistics.mean(column) for column in zip(*pairs, strict=True)]
    return sum((x - mean[0]) * (y - mean[1]) for x, y in pairs) / sum((x - mean[0]) ** 2 for x, _ in pairs)


def plot(found: dict) -> None:
    """Time and memory over each axis."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams.update(
        {"svg.hashsalt": "limbeck", "svg.fonttype": "none", "font.size": 8, "axes.spines.top": False, "axes.spines.right": False}
    )
    from matplotlib import pyplot

    figure, grid = pyplot.subplots(2, len(AXES), figsize=(11, 5), sharey="row", layout="constrained")
    for column, (axis, points) in enumerate(found["axes"].items()):
        for row, (key, scale, title) in enumerate((("seconds", 1.0, "seconds"), ("bytes", 2**20, "MB above the start"))):
            panel = grid[row][column]
            for call in CALLS:
                panel.loglog(
                    [one["value"] for one in points], [one[call][key] / scale for one in points], "o-", ms=3, lw=1, label=call
                )
            panel.minorticks_off()
            panel.set_xlabel(axis)
            panel.set_ylabel(title if column == 0 else "")
    grid[0][0].legend(frameon=False)
    PLOT.parent.mkdir(exist_ok=True)
    figure.savefig(PLOT, metadata={"Date": None})


def render(found: dict) -> str:
    """The page: fitted exponents and the figures."""
    base = Point()
    text = HEAD.format(
        **found, samples=base.samples, width=base.width, parameters=base.parameters, queries=base.queries, batch=base.batch
    )
    lines = text.splitlines()
    for axis, points in found["axes"].items():
        sizes = [one["value"] for one in points]
        for call, title in CALLS.items():
            slopes = [exponent(sizes, [one[call][key] for one in points]) for key in ("seconds", "bytes")]
            lines.append(f"| {axis} | {title} | {slopes[0]:.2f} | {EXPECTED[axis][call]} | {slopes[1]:.2f} |")
    for axis, points in found["axes"].items():
        lines += ["", f"## Over {axis}", "", WHY[axis], ""]
        lines += [f"| {axis} | " + " | ".join(f"{call}, s | MB" for call in CALLS) + " |", "|---" * (2 * len(CALLS) + 1) + "|"]
        for one in points:
            cells = [f"{one[call]['seconds']:.3f} | {one[call]['bytes'] / 2**20:.0f}" for call in CALLS]
            lines.append(f"| {one['value']:,} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, or render."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="times that every point is measured")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the .json file of all figures")
    parser.add_argument(
        "--render", action="store_true", help="measure nothing, write docs/scaling.md and its picture from --results"
    )
    options = parser.parse_args()
    if options.render:
        found = json.loads(options.results.read_text())
        PAGE.write_text(render(found), encoding="utf-8")
        plot(found)
        return
    multiprocessing.get_context("forkserver").set_forkserver_preload(["torch", "sklearn.metrics", "scipy.stats"])
    seen: dict[Point, list[dict]] = {}
    for number in range(options.rounds):
        for point in dict.fromkeys(point for points in AXES.values() for point in points):
            seen.setdefault(point, []).append(measured(point))
            print(number, point, seen[point][-1], file=sys.stderr, flush=True)
    axes = {
        axis: [
            {"value": value(axis, point)}
            | {
                call: {key: statistics.median(one[call][key] for one in seen[point]) for key in ("seconds", "bytes")}
                for call in CALLS
            }
            for point in points
        ]
        for axis, points in AXES.items()
    }
    options.results.parent.mkdir(parents=True, exist_ok=True)
    part = options.results.with_suffix(".part")
    part.write_text(json.dumps({"torch": torch.__version__, "rounds": options.rounds, "axes": axes}, indent=1) + "\n")
    part.replace(options.results)


if __name__ == "__main__":
    sys.exit(ended(main))
