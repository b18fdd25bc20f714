"""On-policy against off-policy distillation of a language model, at the same number of steps: one table, seed by seed.

    python benchmarks/prepare_text.py FOLDER shakespeare --characters 150000 --out runs/data/shakespeare.txt
    python benchmarks/onpolicy.py recipes/shakespeare.yaml --size small

GKD with lambda 0, 0.5 and 1, SeqKD with fresh samples, and labels alone share teacher, first weights and order of samples. Two
things are measured: how well the student knows the data's texts, and how near it is to the teacher on texts of its own. Finished
trainings are kept under --out and read, not run again.
"""

import argparse
import hashlib
import json
import statistics
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from limbeck.core.batch import Batch
from limbeck.data.seeding import generator_for
from limbeck.engine.local import LocalEngine
from limbeck.evaluation.verdict import compare
from limbeck.experiment.arms import Arm, arms_of
from limbeck.experiment.progress import Silent
from limbeck.experiment.recipe import Recipe, load
from limbeck.experiment.seeded import seeded
from limbeck.experiment.unit import Worker
from limbeck.functional.divergences import log_softmax, reverse_kl
from limbeck.functional.target_split import own
from limbeck.llm.rollouts import generate
from limbeck.weighting.uniform import Uniform

CONTEXT, ROWS = 16, 256
"""Tokens of a prompt, which is completed to the end of its row, and test prompts that are completed."""
STREAM = 0x0E7A
"""Keeps the numbers drawn here apart from those of the training."""
BASE = "GKD, lambda 0"
FIGURES = {
    "test NLL": "nll",
    "KL(p, q), test texts": "fidelity_kl",
    "KL(q, p), own texts": "own_kl",
    "teacher's NLL of own texts": "own_nll",
}
"""Column and figure, all in nats a token, the smaller the better; p is the teacher, q the student."""


def ways(divergence: str) -> dict[str, tuple[str, str]]:
    """Step and objective of every arm, by its title."""
    return {
        BASE: ("Student()", divergence),
        "GKD, lambda 0.5": (f"OnPolicy(0.5, context={CONTEXT})", divergence),
        "GKD, lambda 1": (f"OnPolicy(1.0, context={CONTEXT})", divergence),
        "SeqKD": (f'OnPolicy(1.0, "teacher", context={CONTEXT})', "CE()"),
        "labels alone": ("Student()", "CE()"),
    }


def arms(recipe: Recipe, worker: Worker, divergence: str) -> list[Arm]:
    """One arm for each way, all weights 1."""
    main, found = arms_of(recipe, worker.parts)[-1], []
    for title, (step, objective) in ways(divergence).items():
        made = Recipe.of({**recipe.model_dump(), "step": step, "objective": objective})
        name = "p" + hashlib.sha256(f"{step} {objective}".encode()).hexdigest()[:10]
        here = arms_of(made, worker.parts)[-1]
        step_of = made.expressions()["step"].build
        found.append(replace(main, name=name, title=title, weighting=Uniform, step=step_of, objective=here.objective))
    return found


@torch.no_grad()
def on_own_texts(student: nn.Module, teacher: nn.Module, prompts: Batch, seed: int) -> dict[str, float]:
    """KL(q || p) at the places that the student writes, and the teacher's NLL of what it wrote, per token."""
    student, teacher = student.eval(), teacher.eval()
    known = torch.full((len(prompts),), CONTEXT)
    generators = [generator_for(seed, STREAM, row) for row in prompts.index.tolist()]
    wrote = generate(student, prompts.inputs, known, length=prompts.inputs.shape[1] - CONTEXT, generators=generators)
    log_q, log_p = (log_softmax(net(wrote.ids[:, :-1])) for net in (student, teacher))
    counted, tokens = wrote.mask[:, 1:], wrote.ids[:, 1:]
    return {
        "own_kl": float(reverse_kl(log_p, log_q)[counted].double().mean()),
        "own_nll": float(-own(log_p, tokens)[counted].double().mean()),
    }


def trained(recipe: Recipe, worker: Worker, divergence: str, out: Path) -> dict[str, list[dict]]:
    """The figures by arm, one entry per seed."""
    found: dict[str, list[dict]] = {}
    home = out / hashlib.sha256(json.dumps(recipe.model_dump(exclude={"seeds"})).encode()).hexdigest()[:10]
    home.mkdir(parents=True, exist_ok=True)
    here = replace(worker, home=home)
    for number in range(recipe.seeds):
        seed = recipe.seed + number
        sets = seeded(recipe, worker.parts, seed)
        teacher = here.teacher(sets).model
        prompts = sets.test.take(slice(0, ROWS))
        for arm in arms(recipe, worker, divergence):
            unit = here.student(arm, sets, teacher)
            written = [row["written_steps"] for row in unit.rows if row.get("written_steps") is not None]
            said = {"written": written[-1] if written else 0, "seconds": unit.seconds}
            found.setdefault(arm.title, []).append({**unit.figures, **on_own_texts(unit.model, teacher, prompts, seed), **said})
    return found


def table(found: dict[str, list[dict]]) -> str:
    """One row an arm: means over seeds, and in brackets the 95 % interval of the gain over lambda 0."""
    lines = [
        f"\n{len(found[BASE])} paired seeds; nats a token; in brackets the gain over {BASE}, 95 % interval\n",
        f"| | {' | '.join(FIGURES)} | steps on written texts | time of a run, s |",
        "|---" * (len(FIGURES) + 3) + "|",
    ]
    for title, seeds in found.items():
        cells = [cell([one[key] for one in seeds], [one[key] for one in found[BASE]]) for key in FIGURES.values()]
        written, seconds = (statistics.mean(one[key] for one in seeds) for key in ("written", "seconds"))
        lines.append(f"| {title} | {' | '.join(cells)} | {written:.0f} | {seconds:.0f} |")
    return "\n".join(lines)


def cell(ours: list[float], base: list[float]) -> str:
    """The mean, and what is gained over the base: smaller is better."""
    found, mean = compare([-one for one in ours], [-one for one in base]), f"{statistics.mean(ours):.3f}"
    return mean if found.low is None else f"{mean} ({found.effect:+.3f}: {found.low:+.3f} to {found.high:+.3f})"


def main() -> None:
    """Train what is not there yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe")
    parser.add_argument("--size")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE")
    parser.add_argument("--objective", default="JSD()", help="GKD's divergence")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs/onpolicy"))
    options = parser.parse_args()
    recipe = load(options.recipe, size=options.size, settings=["compare=[uniform]", *options.set], seeds=options.seeds)
    torch.set_num_threads(recipe.threads)
    worker = Worker(recipe, recipe.build(), LocalEngine(), options.out, Silent())
    print(table(trained(recipe, worker, options.objective, options.out)), flush=True)


if __name__ == "__main__":
    main()
