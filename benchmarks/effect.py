"""Runs a recipe under several settings and prints one table: what each weighting gains over plain distillation, with intervals.

    python benchmarks/effect.py digits --noise 0 0.2 0.3 0.4 --seeds 5 --out runs/effect
    python benchmarks/effect.py digits --noise 0.4 --weighting "InfluenceWeighting(gain=2)"
    python benchmarks/effect.py recipes/cifar10_subset.yaml --data 'Arrays("runs/data/cifar10_worst.npz")'

Each setting is a whole run with its own folder under --out, where its report stands too; finished ones are read, not run again.
"""

import argparse
import hashlib
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ended import ended

ARMS = ("teacher", "uniform", "query_in_training", "random_weights", "own_loss", "oracle")


def command(options: argparse.Namespace, data: str, weighting: str) -> tuple[list[str], Path]:
    """The run of one setting, and its folder."""
    settings = [*options.set, f"data={data}", f"weighting={weighting}"]
    key = hashlib.sha256(json.dumps([options.recipe, options.seeds, settings]).encode()).hexdigest()[:10]
    folder = Path(options.out) / key
    words = [part for setting in settings for part in ("--set", setting)]
    seeds = ["--seeds", str(options.seeds)] if options.seeds else []
    return [sys.executable, "-m", "limbeck.cli", "run", options.recipe, *words, *seeds, "--out", str(folder), "--quiet"], folder


def finished(order: tuple[list[str], Path]) -> dict:
    """The result of a setting, run where it is not there yet."""
    words, folder = order
    if not (folder / "result.json").exists():
        again = ["--replace"] if folder.exists() else []
        subprocess.run([*words, *again], check=True, stdout=subprocess.DEVNULL)
    return json.loads((folder / "result.json").read_text())


def mean(values: list[float]) -> float:
    """The mean over seeds."""
    return sum(values) / len(values)


def row(data: str, weighting: str, result: dict) -> str:
    """One line of the table, in points of test accuracy."""
    accuracy = {name: 100 * mean(arm["per_seed"]["accuracy"]) for name, arm in result["arms"].items()}
    own = accuracy[result["main"]]
    base = accuracy.get("uniform", own)
    cells = [f"{accuracy[name]:.1f}" if name in accuracy else "-" for name in ("teacher", "uniform")]
    cells += [f"{accuracy[name] - base:+.1f}" if name in accuracy else "-" for name in ARMS[2:]]
    found = {one["against"]: one for one in result["verdict"]["comparisons"]}
    for name in ("uniform", "query_in_training"):
        one = found.get(name)
        cells.append(
            "-"
            if one is None or one["low"] is None
            else f"**{100 * one['effect']:+.1f}** ({100 * one['low']:+.1f} to {100 * one['high']:+.1f})"
        )
    weights = result["weights"]
    for name, digits in (("flipped_auc", 3), ("mean_weight_flipped", 2), ("mean_weight_clean", 2)):
        cells.append(f"{mean(weights[name]):.{digits}f}" if weights[name] else "-")
    cells.append(str(len(result["events"])))
    return f"| {data} | {weighting} | " + " | ".join(cells) + " |"


def main() -> None:
    """Run all settings, two at a time, and print the table as they are done."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", help="a built-in recipe or a YAML file")
    parser.add_argument("--noise", nargs="*", type=float, default=[], help="shares of flipped labels of Digits")
    parser.add_argument("--data", nargs="*", default=[], help="data expressions, in place of --noise")
    parser.add_argument("--weighting", nargs="*", default=["InfluenceWeighting()"], help="weighting expressions, each a row")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="changes of the recipe")
    parser.add_argument("--seeds", type=int, help="in place of the recipe's")
    parser.add_argument("--out", default="runs/effect", help="folder of the runs")
    parser.add_argument("--processes", type=int, default=2, help="runs at a time")
    options = parser.parse_args()
    sets = options.data or [f"Digits(label_noise={noise}, seed=0)" for noise in options.noise]
    settings = [(data, weighting) for data in sets for weighting in options.weighting]
    print(
        "| data | weighting | teacher | plain KD | query in training | random | own loss | oracle | gain over plain KD (95 %) |"
        " gain over query in training (95 %) | AUC | w flipped | w clean | events |"
    )
    print("|" + "---|" * 14)
    with ThreadPoolExecutor(options.processes) as pool:
        for (data, weighting), result in zip(
            settings, pool.map(finished, [command(options, *one) for one in settings]), strict=True
        ):
            print(row(data, weighting, result), flush=True)


if __name__ == "__main__":
    sys.exit(ended(main))
