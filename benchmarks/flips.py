"""How well scores find flipped labels on a recipe's trained students: influence by several inverses beside a sample's own loss.

    python benchmarks/flips.py recipes/sst2.yaml --size small --seeds 3 --measure loss margin

AUC over training rows that are drawn (seed 0) from those of each seed, students in evaluation mode; `within` compares rows of
one given label only (each label's median score is taken off), so that how often the net answers with each class has no say.
`slope` is how the query loss moves as the logits grow: above 0 the student is surer on the query set than is good for it, and
then what is right raises the query loss too. `--measure margin` has influence on log((1 - p) / p), p of the right class, in place
of the query loss: it falls with every step towards the right class, however sure the student is. Accuracy and loss are those of
validation; the test split is not looked at.
"""

import argparse
import statistics
import sys
import tempfile
from dataclasses import replace
from itertools import product
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ended import ended
from limbeck.core.batch import Batch
from limbeck.data.loader import whole
from limbeck.data.seeding import generator_for
from limbeck.engine.local import LocalEngine
from limbeck.evaluation.flips import flip_auc
from limbeck.experiment.arms import TITLES, arms_of
from limbeck.experiment.progress import Silent
from limbeck.experiment.recipe import Recipe, load
from limbeck.experiment.seeded import Seeded, seeded
from limbeck.experiment.unit import Worker, scored
from limbeck.influence.curvature.solver import Solver
from limbeck.influence.scores import score
from limbeck.influence.task import Distillation, label_loss
from limbeck.weighting.influence import InfluenceWeighting

PIECE = 256
"""Rows that go through the student together."""


def solver_of(recipe: Recipe, text: str) -> Solver:
    """The inverse, as a recipe names it."""
    made = Recipe.of({**recipe.model_dump(), "weighting": f"InfluenceWeighting({text})"}).expressions()["weighting"].build()
    assert isinstance(made, InfluenceWeighting)
    return made.solver


def within(scores: Tensor, labels: Tensor) -> Tensor:
    """Scores less the median of those with the same label, [N]."""
    medians = torch.stack([scores[labels == label].median() for label in labels.unique()])
    return scores - medians[torch.unique(labels, return_inverse=True)[1]]


def figures(
    net: nn.Module, task: Distillation, data: Seeded, rows: Batch, solvers: dict[str, Solver], measures: list[str]
) -> dict[str, float]:
    """What is told of a student."""
    assert data.clean is not None
    assert rows.targets is not None
    flipped, queries = ~data.clean[rows.index], data.queries
    with torch.no_grad():
        losses = torch.cat([task.training_loss(net, piece) for piece in _pieces(rows)])
        held = torch.cat([label_loss(net, piece) for piece in _pieces(data.validation)])
        right = torch.cat([net(piece).logits.argmax(1) == piece.targets for piece in _pieces(data.validation)])
        logits = torch.cat([net(piece).logits for piece in _pieces(queries)])
    scale = torch.ones((), requires_grad=True)
    (slope,) = torch.autograd.grad(F.cross_entropy(scale * logits, queries.targets), scale)
    found = {"accuracy": 100 * float(right.float().mean()), "NLL": float(held.mean()), "slope": float(slope)}
    found["own loss"] = flip_auc(losses, flipped) or 0.0
    for measure, (text, solver) in product(measures, solvers.items()):
        asked = replace(task, query="margin") if measure == "margin" else task
        phi = score(net, asked, _pieces(rows), _pieces(queries), solver, seed=data.seed).phi
        name = text if measure == "loss" else f"{text}, {measure}"
        found[name] = flip_auc(phi, flipped) or 0.0
        found[f"{name}, within"] = flip_auc(within(phi, rows.targets), flipped) or 0.0
    return found


def _pieces(rows: Batch) -> list[Batch]:
    return list(rows.split(-(-len(rows) // PIECE)))


def table(found: dict[str, list[dict[str, float]]]) -> str:
    """A row for each student, seed by seed."""
    names = list(next(iter(found.values()))[0])
    lines = ["| student | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for title, seeds in found.items():
        cells = []
        for name in names:
            values = [one[name] for one in seeds]
            digits = 1 if name == "accuracy" else 3
            each = "" if len(values) == 1 else f" ({', '.join(f'{value:.{digits}f}' for value in values)})"
            cells.append(f"{statistics.mean(values):.{digits}f}{each}")
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Train the students, score the rows, print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", help="a built-in recipe or a YAML file, with flipped labels")
    parser.add_argument("--size", help="one of the recipe's sizes")
    parser.add_argument("--set", nargs="*", default=[], help="settings of the recipe, as for limbeck run")
    parser.add_argument("--seeds", type=int, default=1, help="students of each kind")
    parser.add_argument("--arm", nargs="*", default=["uniform"], choices=[*TITLES, "kd_aif"], help="students")
    parser.add_argument("--solver", nargs="*", default=["EKFAC()"], help="inverses, as a recipe names them")
    parser.add_argument("--measure", nargs="*", default=["loss"], choices=["loss", "margin"], help="what influence is on")
    parser.add_argument("--rows", type=int, default=2000, help="training rows that are scored")
    said = parser.parse_args()
    rivals = [f"compare=[{', '.join(name for name in said.arm if name in TITLES)}]"]
    recipe = load(said.recipe, size=said.size, settings=[*said.set, *rivals], seeds=said.seeds)
    torch.set_num_threads(recipe.threads)
    found: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as home:
        worker = Worker(recipe, recipe.build(), LocalEngine(), Path(home), Silent())
        for number in range(recipe.seeds):
            data = seeded(recipe, worker.parts, recipe.seed + number)
            teacher = worker.teacher(data)
            drawn = torch.randperm(len(data.splits.train), generator=generator_for(0, 1))[: said.rows]
            rows = whole(worker.parts.data, data.splits.train[drawn].sort().values, data.labels)
            for arm in (one for one in arms_of(recipe, worker.parts) if one.name in said.arm):
                unit = worker.student(arm, data, teacher.model)
                assert unit.objective is not None
                net, task = scored(unit.objective, unit.model, teacher.model)
                solvers = {text: solver_of(recipe, text) for text in said.solver}
                found.setdefault(arm.title, []).append(figures(net.eval(), task, data, rows, solvers, said.measure))
    print(table(found))


if __name__ == "__main__":
    sys.exit(ended(main))
