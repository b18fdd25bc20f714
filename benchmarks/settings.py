"""What each setting of the weights gains over plain distillation: one table, all settings against the same rivals, seed by seed.

    python benchmarks/settings.py digits --data "Digits(label_noise=0.4, seed=0)" --weighting "InfluenceWeighting(gain=2)"
    python benchmarks/settings.py digits --preset steep     # or: median, solvers, refresh, normalise

Teacher, plain distillation, the oracle and the query-in-training rival are trained once per data set and seed and shared by all
settings, as are first weights and the order of samples. Finished trainings are kept under --out and read, not run again.
"""

import argparse
import hashlib
import json
import math
import statistics
import sys
from dataclasses import replace
from pathlib import Path

import torch

from ended import ended
from limbeck.engine.local import LocalEngine
from limbeck.evaluation.flips import flip_auc
from limbeck.experiment.arms import Arm, arms_of
from limbeck.experiment.progress import Silent
from limbeck.experiment.recipe import Recipe, load
from limbeck.experiment.seeded import seeded
from limbeck.experiment.unit import Unit, Worker
from paired import gain

AGED = "normalise='zscore', refresh=20"
"""Weights of each step, along a q that is up to 20 steps old: what "auto" means in a short run."""
STEEP = [
    f"InfluenceWeighting({AGED})",
    f"InfluenceWeighting(gain=4, {AGED})",
    *(
        f"InfluenceWeighting(normalise='zscore', gain={gain}, refresh={refresh}, query_batch={queries})"
        for gain, refresh, queries in ((4, 1, 50), (4, 2, 50), (4, 4, 50), (4, 4, 200), (2, 1, 50))
    ),
    f"InfluenceWeighting(Identity(), gain=4, {AGED})",
    "InfluenceWeighting(Identity(), normalise='zscore', gain=4, refresh=1, query_batch=50)",
]
SOLVERS = [
    f"InfluenceWeighting({solver}, {AGED})"
    for solver in ("Identity()", "Diagonal()", "KFAC()", *(f"EKFAC(damping={damping})" for damping in (0.001, 0.01, 0.1, 1)))
]
REFRESH = [f"InfluenceWeighting(normalise='zscore', refresh={refresh})" for refresh in (1, 5, 20, 60, 200)] + [
    f"InfluenceWeighting(normalise='zscore', refresh='epochs:{epochs}')" for epochs in (1, 2, 5, 10)
]
NORMALISE = [f"InfluenceWeighting(normalise={kind!r}, refresh=20)" for kind in ("none", "std", "zscore", "median")]
MEDIAN = [
    f"InfluenceWeighting({solver}normalise='median'{rest})"
    for solver, rests in (
        ("", (", refresh=20", ", refresh=5", ", refresh=200", ", refresh=1, query_batch=50")),
        ("Identity(), ", (", refresh=20", ", refresh=5", ", refresh=1, query_batch=50")),
        ("", (", refresh='epochs:2'", ", refresh=10", ", refresh=5, query_batch=50", ", refresh=5, query_batch=100")),
        ("", (", refresh='epochs:1'", ", refresh='epochs:5'", ", refresh='epochs:10'")),
        ("Identity(), ", (", refresh='epochs:2'", ", refresh='epochs:10'")),
        ("KFAC(), ", (", refresh=5",)),
    )
    for rest in rests
]
PRESETS = {"median": MEDIAN, "steep": STEEP, "solvers": SOLVERS, "refresh": REFRESH, "normalise": NORMALISE}
RIVALS = ("uniform", "query_in_training", "oracle")


def trained(worker: Worker, recipe: Recipe, data: str, weightings: list[str], out: Path) -> dict[str, list[dict]]:
    """Test accuracy and what the weights did, by arm, one entry per seed."""
    found: dict[str, list[dict]] = {}
    for number in range(recipe.seeds):
        seed = recipe.seed + number
        sets = seeded(recipe, worker.parts, seed)
        home = out / hashlib.sha256(json.dumps([recipe.resolved().partition("weighting:")[0], data]).encode()).hexdigest()[:10]
        home.mkdir(parents=True, exist_ok=True)
        here = replace(worker, home=home)
        teacher = here.teacher(sets)
        for arm in arms(recipe, worker, weightings):
            unit = here.student(arm, sets, teacher.model)
            found.setdefault(arm.title, []).append(said(unit, sets.clean, sets.splits.train))
    return found


def arms(recipe: Recipe, worker: Worker, weightings: list[str]) -> list[Arm]:
    """The rivals, then one arm for each setting, named by its text."""
    *rivals, main = arms_of(recipe, worker.parts)
    own = []
    for text in weightings:
        make = Recipe.of({**recipe.model_dump(), "weighting": text}).expressions()["weighting"].build
        name = "w" + hashlib.sha256(text.encode()).hexdigest()[:10]
        own.append(replace(main, name=name, title=text, weighting=make))
    return [*rivals, *own]


def said(unit: Unit, clean: torch.Tensor | None, rows: torch.Tensor) -> dict:
    """What is told of a training."""
    mean, last = (unit.samples[name][rows] for name in ("mean", "last"))
    right = None if clean is None or bool(clean[rows].all()) else clean[rows]
    return {
        "accuracy": 100 * float(unit.figures["accuracy"] or 0),
        "nll": float(unit.figures["nll"] or 0),
        "events": len(unit.events),
        "flipped": math.nan if right is None else float(mean[~right].mean()),
        "clean": math.nan if right is None else float(mean[right].mean()),
        "auc": math.nan if right is None else flip_auc(-last, ~right),
    }


def table(data: str, found: dict[str, list[dict]]) -> str:
    """One row a setting; AUC: how well the weights at the end tell wrong labels from right ones."""
    plain = found["Plain KD (all weights 1)"]
    accuracy, nll = (statistics.mean(one[key] for one in plain) for key in ("accuracy", "nll"))
    lines = [
        f"\n**{data}**, {len(plain)} paired seeds, plain KD {accuracy:.1f} %, NLL {nll:.3f} nats\n",
        "| setting | gain over plain KD, points (95 %) | worst seed | NLL, nats (95 %) | w flipped | w clean | AUC | events |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for title, seeds in found.items():
        gains, changes = ([one[key] - base[key] for one, base in zip(seeds, plain, strict=True)] for key in ("accuracy", "nll"))
        figures = [statistics.mean(one[key] for one in seeds) for key in ("flipped", "clean", "auc")]
        weights = " | ".join("-" if math.isnan(part) else f"{part:.2f}" for part in figures)
        events = sum(one["events"] for one in seeds)
        lines.append(f"| {title} | {gain(gains, 1)} | {min(gains):+.1f} | {gain(changes, 3)} | {weights} | {events} |")
    return "\n".join(lines)


def main() -> None:
    """Train what is not there yet, and print one table for each data set."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", help="a built-in recipe or a YAML file")
    parser.add_argument(
        "--data",
        nargs="*",
        default=[f"Digits(label_noise={noise}, seed=0)" for noise in (0.4, 0.2, 0.0)],
        help="data expressions, a table each",
    )
    parser.add_argument("--weighting", nargs="*", default=[], help="weighting expressions, each a row")
    parser.add_argument("--preset", nargs="*", default=[], choices=list(PRESETS), help="named lists of weightings")
    parser.add_argument("--seeds", type=int, default=5, help="paired runs of each weighting")
    parser.add_argument("--out", type=Path, default=Path("runs/settings"), help="folder of runs and figures")
    options = parser.parse_args()
    weightings = [*options.weighting, *(text for name in options.preset for text in PRESETS[name])]
    for data in options.data:
        kept = [name for name in RIVALS if name != "oracle" or "label_noise=0.0" not in data]
        recipe = load(options.recipe, settings=[f"data={data}", f"compare=[{', '.join(kept)}]"], seeds=options.seeds)
        torch.set_num_threads(recipe.threads)
        worker = Worker(recipe, recipe.build(), LocalEngine(), options.out, Silent())
        print(table(data, trained(worker, recipe, data, list(dict.fromkeys(weightings)), options.out)), flush=True)


if __name__ == "__main__":
    sys.exit(ended(main))
