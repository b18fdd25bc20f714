"""The levels at which DynamicLambda takes gradients, side by side on digits: the table of docs/methods/dynamic-lambda.md.

    python benchmarks/balance.py --out runs/balance     # measures, about two minutes on one core, and writes the page's table

Finished trainings are kept under --out and read, not run again. The time of a step is process time, interleaved with that of the
same loss with lambda fixed, and given as the median ratio.
"""

import argparse
import json
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch

from ended import ended
from limbeck.engine.local import LocalEngine
from limbeck.experiment.arms import arms_of
from limbeck.experiment.folder import write_json
from limbeck.experiment.progress import Silent
from limbeck.experiment.recipe import Recipe, load
from limbeck.experiment.seeded import seeded
from limbeck.experiment.unit import Worker
from methods import stepper

PAGE = Path(__file__).parent.parent / "docs" / "methods" / "dynamic-lambda.md"
BEGIN, END = "<!-- levels: written by benchmarks/balance.py -->", "<!-- end of levels -->"
FIXED = "fixed"
LEVELS = ("logits", "last_layer", "all")
STEPS, REPEATS = 40, 9
SETTINGS = {
    "data": "Digits(label_noise=0.2, seed=0)",
    "teacher": "MLP(width=128, depth=2)",
    "student": "MLP(width=32, depth=2)",
    "weighting": "Uniform()",
    "epochs": "30",
    "compare": "[uniform]",
}


def recipe_for(level: str, seeds: int) -> Recipe:
    """Lambda fixed at 0.9, or moving from there by gradients at this level."""
    own = (
        {"objective": "KD(T=4) * 0.9 + CE() * 0.1"}
        if level == FIXED
        else {"objective": "KD(T=4) + CE()", "balancer": f'DynamicLambda(mu=0.9, kappa=0.8, level="{level}")'}
    )
    return load("digits", settings=[f"{key}={value}" for key, value in (SETTINGS | own).items()], seeds=seeds)


def worker_for(level: str, seeds: int, out: Path) -> Worker:
    """Trains one level; the folder is shared, and so are the teachers."""
    recipe = recipe_for(level, seeds)
    return Worker(recipe, recipe.build(), LocalEngine(), out, Silent())


def measured(level: str, seeds: int, out: Path) -> dict[str, list[float]]:
    """Test accuracy, and lambda and the angle at the last step, one entry per seed."""
    worker = worker_for(level, seeds, out)
    arm = replace(arms_of(worker.recipe, worker.parts)[-1], name=level)
    found: dict[str, list[float]] = {"accuracy": [], "lambda": [], "cosine": []}
    for seed in range(seeds):
        data = seeded(worker.recipe, worker.parts, seed)
        unit = worker.student(arm, data, worker.teacher(data).model)
        last = [row for row in unit.rows if row["phase"] == "train"][-1]
        found["accuracy"].append(float(unit.figures["accuracy"] or 0.0))
        found["lambda"].append(last.get("lambda", 0.9))
        found["cosine"] += [last["gradient_cosine"]] if "gradient_cosine" in last else []
    return found


def ratios(out: Path) -> dict[str, float]:
    """The time of a step over that of the fixed lambda's, the median of interleaved repeats."""
    steppers = {}
    for level in (FIXED, *LEVELS):
        worker = worker_for(level, 1, out)
        data = seeded(worker.recipe, worker.parts, 0)
        teacher = worker.teacher(data).model
        steppers[level], _ = stepper(worker, arms_of(worker.recipe, worker.parts)[-1], data, teacher, STEPS)
        steppers[level]()  # warms up
    seconds: dict[str, list[float]] = {level: [] for level in steppers}
    for _ in range(REPEATS):
        for level, take in steppers.items():
            began = time.process_time()
            take()
            seconds[level].append(time.process_time() - began)
    return {
        level: statistics.median(own / plain for own, plain in zip(spent, seconds[FIXED], strict=True))
        for level, spent in seconds.items()
    }


def table(found: dict[str, dict[str, list[float]]], times: dict[str, float]) -> str:
    """The table in Markdown: mean over seeds."""
    lines = [
        "| gradients of | accuracy, % | lambda, last step | cosine of the angle, last step | time of a step |",
        "|---|---|---|---|---|",
    ]
    for level, part in found.items():
        accuracy = [100 * value for value in part["accuracy"]]
        cosine = f"{statistics.mean(part['cosine']):.2f}" if part["cosine"] else "-"
        name = "none: lambda fixed" if level == FIXED else f"`{level}`"
        spread = statistics.stdev(accuracy) if len(accuracy) > 1 else 0.0
        lines.append(
            f"| {name} | {statistics.mean(accuracy):.1f} ± {spread:.1f} | {statistics.mean(part['lambda']):.2f} | {cosine} "
            f"| {times[level]:.2f} |"
        )
    return "\n".join(lines)


def render(content: str, page: Path) -> None:
    """Put the table between its marks on the page."""
    before, rest = page.read_text(encoding="utf-8").split(BEGIN)
    _, after = rest.split(END)
    page.write_text(f"{before}{BEGIN}\n\n{content}\n\n{END}{after}", encoding="utf-8")


def main() -> None:
    """Measure, keep the figures, and write the page's table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("runs/balance"), help="folder of runs and figures")
    parser.add_argument("--seeds", type=int, default=3, help="paired runs of each balancer")
    parser.add_argument("--render", action="store_true", help="only write the table, from what --out holds")
    options = parser.parse_args()
    kept = options.out / "balance.json"
    if not options.render:
        torch.set_num_threads(1)
        options.out.mkdir(parents=True, exist_ok=True)
        found = {level: measured(level, options.seeds, options.out) for level in (FIXED, *LEVELS)}
        write_json(kept, {"found": found, "times": ratios(options.out)})
    content = json.loads(kept.read_text(encoding="utf-8"))
    render(table(content["found"], content["times"]), PAGE)


if __name__ == "__main__":
    sys.exit(ended(main))
