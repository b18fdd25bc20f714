"""What a mixture of domains gains over rows as they come: test loss by domain, all mixtures with the same teacher, seed by seed.

    python benchmarks/prepare_text.py FOLDER reviews --rows 300 --skew 2 --out runs/data/reviews.parquet
    python benchmarks/prepare_text.py FOLDER reviews --rows 300 --out runs/data/reviews_even.parquet
    python benchmarks/mixtures.py recipes/reviews.yaml --size small --set epochs=5

The students' data has half as many reviews of each domain as of the one before it; the teacher has learnt from as many of each,
since DDK is for teachers that know all domains. First weights are shared. Finished trainings are kept under --out and read,
not run again.
"""

import argparse
import hashlib
import json
import statistics
import sys
from dataclasses import replace
from pathlib import Path

import torch

from ended import ended
from limbeck.core.batch import Batch
from limbeck.engine.local import LocalEngine
from limbeck.experiment.arms import Arm, arms_of
from limbeck.experiment.measuring import figures_of
from limbeck.experiment.progress import Silent
from limbeck.experiment.recipe import Recipe, load
from limbeck.experiment.seeded import seeded
from limbeck.experiment.unit import Unit, Worker
from paired import gain

AS_THEY_COME = "rows as they come"


def arms(recipe: Recipe, worker: Worker, mixtures: list[str]) -> list[Arm]:
    """One arm without a mixture, then one for each, named by its text."""
    *_, main = arms_of(recipe, worker.parts)
    found = [replace(main, name="fixed", title=AS_THEY_COME, mixture=lambda: None)]
    for text in mixtures:
        make = Recipe.of({**recipe.model_dump(), "mixture": text}).expressions()["mixture"].build
        found.append(replace(main, name="m" + hashlib.sha256(text.encode()).hexdigest()[:10], title=text, mixture=make))
    return found


def losses(worker: Worker, unit: Unit, test: Batch) -> dict[str, float]:
    """Test loss in nats a token, by domain and of all tokens."""
    source = worker.parts.data
    domain = source.groups[test.index]
    parts = {name: test.take((domain == number).nonzero()[:, 0]) for number, name in enumerate(source.group_names)}
    return {name: figures_of(unit.deployed, part).nll for name, part in {**parts, "all": test}.items()}


def trained(worker: Worker, tutor: Worker, mixtures: list[str]) -> dict[str, list[dict]]:
    """Losses by domain, and the last shares, of each arm, one entry per seed."""
    found: dict[str, list[dict]] = {}
    for number in range(worker.recipe.seeds):
        seed = worker.recipe.seed + number
        teacher = tutor.teacher(seeded(tutor.recipe, tutor.parts, seed))
        data = seeded(worker.recipe, worker.parts, seed)
        found.setdefault("teacher", []).append(losses(worker, teacher, data.test))
        for arm in arms(worker.recipe, worker, mixtures):
            unit = worker.student(arm, data, teacher.model)
            last = [row for row in unit.rows if row["phase"] == "train"][-1]
            shares = {name: value for name, value in last.items() if name.startswith("share_")}
            found.setdefault(arm.title, []).append({**losses(worker, unit, data.test), **shares})
    return found


def table(names: list[str], found: dict[str, list[dict]]) -> str:
    """One row a mixture: losses, the gain of the mean over domains, and the last shares."""
    lines = [
        f"| {len(found['teacher'])} paired seeds | " + " | ".join(names) + " | all tokens | gain, all tokens (95 %) | "
        "gain, mean of the domains (95 %) | last shares |",
        "|" + "---|" * (len(names) + 5),
    ]
    plain = found[AS_THEY_COME]
    for title, seeds in found.items():
        cells = [f"{statistics.mean(one[name] for one in seeds):.4f}" for name in [*names, "all"]]
        if title in ("teacher", AS_THEY_COME):
            cells += ["-", "-"]
        else:
            cells.append(gain([base["all"] - own["all"] for own, base in zip(seeds, plain, strict=True)], 4))
            gains = [statistics.mean(base[n] - own[n] for n in names) for own, base in zip(seeds, plain, strict=True)]
            cells.append(gain(gains, 4))
        shares = [statistics.mean(one[f"share_{name}"] for one in seeds) for name in names if f"share_{name}" in seeds[0]]
        lines.append(f"| {title} | " + " | ".join([*cells, ", ".join(f"{share:.2f}" for share in shares) or "-"]) + " |")
    return "\n".join(lines)


def main() -> None:
    """Train what is not there yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", help="a recipe with domains")
    parser.add_argument("--size", help="one of the recipe's sizes")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="changes of the recipe")
    parser.add_argument("--seeds", type=int, default=3, help="paired runs of each mixture")
    parser.add_argument(
        "--mixture", nargs="*", default=["FixedShares()", "DDK(every=100)"], help="mixture expressions, each a row"
    )
    parser.add_argument("--even", default="runs/data/reviews_even.parquet", help="what the teacher learns from")
    parser.add_argument("--out", type=Path, default=Path("runs/mixtures"), help="folder of runs and figures")
    options = parser.parse_args()
    recipe = load(options.recipe, size=options.size, settings=options.set, seeds=options.seeds)
    torch.set_num_threads(recipe.threads)
    tutored = Recipe.of({**recipe.model_dump(), "data": recipe.data.replace("runs/data/reviews.parquet", options.even)})
    said = [recipe.resolved().partition("mixture:")[0], recipe.epochs, recipe.batch_size, tutored.data]
    home = options.out / hashlib.sha256(json.dumps(said).encode()).hexdigest()[:10]
    home.mkdir(parents=True, exist_ok=True)
    worker, tutor = (Worker(one, one.build(), LocalEngine(), home, Silent()) for one in (recipe, tutored))
    print(table(list(worker.parts.data.group_names), trained(worker, tutor, options.mixture)), flush=True)


if __name__ == "__main__":
    sys.exit(ended(main))
