"""Limbeck beside other influence libraries: time, memory and quality of scores on the same models and data.

    pip install -e ".[bench]"
    python benchmarks/prepare_data.py ../shared/data mnist --per-class 500 --halve --out runs/data/mnist_half.npz
    python benchmarks/attribution.py --rounds 3
    python benchmarks/attribution.py --render

The third call measures and writes `benchmarks/results/attribution.json`; `--render` makes docs/attribution-benchmark.md of it.
With `--problems` only those are measured, and what the file holds of the others stays.
Every method runs in a process of its own, one thread, and all take turns for `--rounds` rounds; time is the processor's, memory
is resident memory above what the process had before. What is true of a problem (`attribution_problems.py`) is kept under --out.
"""

import argparse
import ctypes
import gc
import importlib.metadata
import json
import multiprocessing
import os
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import torch
import torch.nn.functional as F
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score
from torch import Tensor

from attribution_methods import ROWS, Method, Row, Setting
from attribution_page import PAGE, RESULTS, render
from attribution_problems import PROBLEMS, Data, Problem, Truth, scored, truth
from ended import ended

PHASES = ("prepare", "mean", "full", "own")
WARM = 16
"""Samples and queries of a first run that is not measured: libraries load parts of torch and of themselves at first use."""
SLOW = 8.0
"""Seconds of a first round above which a method is not measured again."""


def setting_of(problem: Problem, known: Truth) -> Setting:
    """What every method gets."""
    return Setting(scored(problem, known), problem.data(), known.damping, 0.1 * known.level, problem.convex)


def first(setting: Setting, count: int) -> Setting:
    """The same with a few samples and queries."""
    data = setting.data
    few = Data(data.x[:count], data.y[:count], data.query_x[:count], data.query_y[:count], data.flipped[:count])
    return replace(setting, data=few)


def job(number: int, name: str, out: Path, file: Path) -> None:
    """Measure one method on one problem; what is found is written after every phase, so that a process may be stopped."""
    row, problem = ROWS[number], PROBLEMS[name]
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - progress bars, until the process ends
    found: dict[str, object] = {}
    try:
        known = truth(problem, out)
        with suppress(Exception):  # some need more samples than these; the real run tells
            run(row.kind(first(setting_of(problem, known), WARM), row.how), lambda *_: None)
        setting = setting_of(problem, known)  # a new net: some libraries change the one that they are given
        found["unit"] = unit(setting)
        write(found, file)
        base = resident()
        run(row.kind(setting, row.how), lambda *one: record(found, file, base, *one))
    except Exception as error:
        found["failed"] = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
        write(found, file)


def run(method: Method, tell: Callable[[str, float, Tensor | None], None]) -> None:
    """All phases in order."""
    for phase in PHASES:
        began = time.process_time()
        value = getattr(method, phase)()
        tell(phase, time.process_time() - began, value)


def record(found: dict, file: Path, base: int, phase: str, seconds: float, value: Tensor | None) -> None:
    """Keep the time of a phase, the peak of memory so far, and the scores."""
    if phase != "prepare" and value is None:
        return
    found[phase], found["peak"] = seconds, peak() - base
    if value is not None and not bool(torch.isfinite(value).all()):
        raise ArithmeticError("its scores are not finite")
    if value is not None:
        np.save(file.with_name(f"{file.stem}-{phase}.npy"), value.detach().float().numpy())
    write(found, file)


def write(found: dict, file: Path) -> None:
    """Whole or not at all."""
    part = file.with_suffix(".part")
    part.write_text(json.dumps(found, indent=1) + "\n")
    part.replace(file)


def unit(setting: Setting) -> float:
    """Seconds of one plain forward and backward pass over the training set."""
    data, times = setting.data, []
    for _ in range(7):
        began = time.process_time()
        F.cross_entropy(setting.net(data.x), data.y).backward()
        times.append(time.process_time() - began)
        setting.net.zero_grad()
    return statistics.median(times)


def resident() -> int:
    """Resident bytes now, what is free given back; the mark of the highest is put back to it (Linux with glibc)."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return status("VmRSS")


def peak() -> int:
    """The most resident bytes since then."""
    return status("VmHWM")


def status(key: str) -> int:
    """A line of /proc/self/status in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))


def measured(number: int, name: str, out: Path, limit: float) -> tuple[dict, dict[str, np.ndarray]]:
    """A method's figures and scores from a new process, which is stopped after `limit` seconds of processor time.

    It is watched from here: a limit of the system (RLIMIT_CPU) makes the clock of the process as coarse as the scheduler's ticks.
    """
    file = out / f"job-{os.getpid()}.json"
    for old in out.glob(f"{file.stem}*"):
        old.unlink()
    process = multiprocessing.get_context("forkserver").Process(target=job, args=(number, name, out, file))
    process.start()
    stopped = watch(process, file, limit)
    found = json.loads(file.read_text()) if file.exists() else {}
    if stopped:
        found["failed"] = f"stopped after {limit:g} s"
    elif process.exitcode:
        found["failed"] = f"the process ended with {process.exitcode}"
    scores = {phase: np.load(part) for phase in PHASES if (part := out / f"{file.stem}-{phase}.npy").exists()}
    for old in out.glob(f"{file.stem}*"):
        old.unlink()
    return found, scores


def watch(process: multiprocessing.process.BaseProcess, file: Path, limit: float) -> bool:
    """Wait for its end, or end it: whether it took more than `limit` before it wrote its first figure, or since."""
    clock, since = psutil.Process(process.pid), None
    while process.is_alive():
        with suppress(psutil.Error):
            times = clock.cpu_times()
            spent = times.user + times.system
            if since is None and file.exists():
                since = spent
            if spent - (since or 0.0) > limit:
                process.kill()
                process.join()
                return True
        process.join(0.05)
    return False


def quality(known: Truth, flipped: Tensor, scores: dict[str, np.ndarray]) -> dict[str, float]:
    """How good scores are; each figure where its scores are there."""
    full, own = scores.get("full"), scores.get("own")
    mean = scores.get("mean", None if full is None else full.mean(0))
    oracle, members = known.oracle.numpy(), known.members.float().numpy()
    found: dict[str, float] = {}
    wrong = flipped.numpy() if bool(flipped.any()) else None
    if mean is not None:
        found["oracle_mean"] = rank(mean, oracle.mean(0))
        found["lds_mean"] = rank(members @ mean, known.losses.mean(1).numpy())
        if len(known.removal):
            found["removal"] = rank(-mean, known.removal.numpy())
        if wrong is not None:
            found["auc"] = float(roc_auc_score(wrong, np.nan_to_num(mean)))
    if full is not None:
        found["oracle_full"] = statistics.mean(rank(one, other) for one, other in zip(full, oracle, strict=True))
        pairs = zip((members @ full.T).T, known.losses.numpy().T, strict=True)
        found["lds_full"] = statistics.mean(rank(one, other) for one, other in pairs)
    if own is not None and wrong is not None:
        found["auc_own"] = float(roc_auc_score(wrong, np.nan_to_num(own)))
    return found


def rank(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's correlation; 0 where one side has no order or is not finite."""
    if not (np.isfinite(a).all() and np.ptp(a) > 0 and np.ptp(b) > 0):
        return 0.0
    return float(spearmanr(a, b).statistic)


def median(rounds: list[dict], key: str) -> float | None:
    """Over the rounds; times are over the plain pass of the same process."""
    values = [one[key] / (1 if key in ("peak", "unit") else one["unit"]) for one in rounds if key in one]
    return round(statistics.median(values), 6) if values else None


def compare(problem: Problem, rows: list[Row], options: argparse.Namespace) -> dict:
    """All methods on one problem."""
    known, data = truth(problem, options.out), problem.data()
    seen: dict[int, list[dict]] = {}
    figures: dict[int, dict[str, float]] = {}
    for turn in range(options.rounds if problem.flips else 1):
        for row in rows:
            number = ROWS.index(row)
            last = seen.get(number, [])
            if last and ("failed" in last[0] or sum(last[0].get(phase, 0.0) for phase in PHASES) > SLOW):
                continue
            found, scores = measured(number, problem.name, options.out, options.limit)
            seen.setdefault(number, []).append(found)
            if turn == 0:
                figures[number] = {key: round(value, 4) for key, value in quality(known, data.flipped, scores).items()}
            print(problem.name, row.library, row.how, found, file=sys.stderr, flush=True)
    ideal = {"full": known.oracle.numpy(), "own": known.own.numpy()}
    return {
        "facts": {
            "title": problem.title, "count": problem.count, "queries": problem.queries, "flips": problem.flips,
            "subsets": problem.subsets, "seeds": problem.seeds, "convex": problem.convex, "accuracy": round(known.accuracy, 4),
            "damping": known.damping, "parameters": sum(part.numel() for part in scored(problem, known).parameters()),
        },
        "oracle": {key: round(value, 4) for key, value in quality(known, data.flipped, ideal).items()},
        "methods": [
            {
                "library": ROWS[number].library, "how": ROWS[number].how,
                "covers": ROWS[number].covers if problem.name == "resnet" else "", "rounds": len(rounds),
                "failed": next((one["failed"] for one in rounds if "failed" in one), None),
                **{key: median(rounds, key) for key in ("unit", *PHASES, "peak")}, **figures[number],
            }
            for number, rounds in seen.items()
        ],
    }  # fmt: skip


def version(library: str) -> str:
    """An installed library's version; for this package its own, wherever it runs from."""
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return "source"


def main() -> None:
    """Measure, or render."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problems", nargs="+", default=list(PROBLEMS), choices=list(PROBLEMS), help="problems to measure")
    parser.add_argument("--libraries", nargs="+", default=[], help="these only")
    parser.add_argument("--rounds", type=int, default=3, help="times that each method is run on each problem")
    parser.add_argument("--limit", type=float, default=40, help="seconds of processor time for one method on one problem")
    parser.add_argument("--out", type=Path, default=Path("runs/attribution"), help="folder of what is measured on the way")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the .json file of all figures, to which is added")
    parser.add_argument(
        "--render", action="store_true", help="measure nothing, write docs/attribution-benchmark.md from --results"
    )
    options = parser.parse_args()
    if options.render:
        PAGE.write_text(render(json.loads(options.results.read_text())), encoding="utf-8")
        return
    options.out.mkdir(parents=True, exist_ok=True)
    multiprocessing.get_context("forkserver").set_forkserver_preload(["torch", "sklearn.metrics", "scipy.stats", "torchvision"])
    libraries = sorted({row.library for row in ROWS})
    found = {
        "torch": torch.__version__, "python": platform.python_version(), "machine": platform.machine(),
        "rounds": options.rounds, "limit": options.limit, "versions": {name: version(name) for name in libraries}, "problems": {},
    }  # fmt: skip
    if options.results.exists():
        found["problems"] = json.loads(options.results.read_text())["problems"]
    for name in options.problems:  # written after each, so that an interruption costs one problem
        rows = [row for row in ROWS if name in (row.problems or [name]) and row.library in (options.libraries or libraries)]
        found["problems"][name] = compare(PROBLEMS[name], rows, options)
        options.results.parent.mkdir(parents=True, exist_ok=True)
        write(found, options.results)


if __name__ == "__main__":
    sys.exit(ended(main))
