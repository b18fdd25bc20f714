"""KD-AIF's teacher updates: what a step costs, and how far the first order agrees with the exact gradient.

    python benchmarks/teacher.py --time [--pairs encoder resnet20] [--queries 200] [--repeats 5]
    python benchmarks/teacher.py --agreement [--seeds 3]

`--time` gives ratios to a KD-AIF step of the student followed by an ordinary supervised step of the teacher, interleaved, process
time, medians. `--agreement` gives cosines with the exact gradient on digits with 40 % wrong labels, 100 steps into training, for
steps of the student of a tenth of its rate, its rate, and ten times that: of the feedback part alone, with a query gradient of
this step, of steps before, or from some queries only; of the direct part; and of both.
"""

import argparse
import statistics
import sys
from collections.abc import Callable
from itertools import chain, islice

import torch
from torch import nn

from ended import ended
from limbeck.core.batch import Batch
from limbeck.data.digits import Digits
from limbeck.data.loader import Loader, whole
from limbeck.data.splits import split
from limbeck.distiller import Distiller
from limbeck.influence.gradients import mean_gradient
from limbeck.influence.in_turn import InTurn
from limbeck.influence.vectors import Vector, combine
from limbeck.losses.labels.ce import CE
from limbeck.losses.logits.kd import KD
from limbeck.models.mlp import MLP
from limbeck.models.spec import DataSpec
from limbeck.teachers.single import Single
from limbeck.training.fit import fit
from limbeck.training.steps.simultaneous import Simultaneous
from limbeck.training.steps.student import Student
from limbeck.training.steps.with_teacher import cosine
from limbeck.training.teacher_update import first_order_backward, query_gradient, teacher_backward
from limbeck.training.training import Training
from limbeck.training.weighted import next_queries, weighted_backward
from limbeck.weighting.influence import InfluenceWeighting
from step import PAIRS, QUERIES, seconds, training_of

RATE, STEPS, LOOKS, FEW = 0.1, 100, 10, 32
AGES = (2, 5, 20)
PARTS = (3, 6)
KINDS: dict[str, dict] = {
    "exact": {},
    "exact, feedback": {"feedback": 1.0},
    "first order": {"order": "first"},
    "first order, feedback": {"feedback": 1.0, "order": "first"},
}


def moving(name: str, count: int, asked: int, **settings: object) -> tuple[Training, Simultaneous, Batch]:
    """A run of the pair after its first step: every q is there already."""
    training, batch = training_of(name, InfluenceWeighting(refresh=20, samples=FEW), count, asked)
    training.distiller.teacher = Single(with_statistics(training.distiller.teacher.tapped.model, batch), trained=True)
    step = Simultaneous(**settings)
    step.prepare(training, None, resumed=False)
    step(training, batch)
    training.number = 1
    return training, step, batch


def with_statistics(model: nn.Module, batch: Batch) -> nn.Module:
    """Running statistics of batch normalisation made those of the batch: with a fresh net's the outputs grow out of bounds."""
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.momentum = None
    with torch.no_grad():
        model.train()(batch.inputs)
    return model


def supervised(name: str, count: int, asked: int) -> Callable[[], object]:
    """The baseline: the student's KD-AIF step, then a step of the teacher on the labels."""
    training, side, batch = moving(name, count, asked)
    student = Student()

    def act() -> None:
        student(training, batch)
        nn.functional.cross_entropy(side.model.tapped(batch).logits, batch.targets).backward()
        side.step(training)

    return act


def times(name: str, count: int, asked: int, repeats: int) -> str:
    """One row: each kind of step over the baseline."""
    base = supervised(name, count, asked)
    kinds = {kind: moving(name, count, asked, **settings) for kind, settings in KINDS.items()}
    base()
    ratios: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(repeats):
        for kind, (training, step, batch) in kinds.items():
            before, own, after = (seconds(act) for act in (base, lambda t=training, s=step, b=batch: s(t, b), base))
            ratios[kind].append(2 * own / (before + after))
    training = kinds["exact"][0]
    query = seconds(lambda: query_gradient(training)) / statistics.median(seconds(base) for _ in range(3))
    cells = [statistics.median(ratios[kind]) for kind in KINDS]
    renewed = [query / 20, 0.0, *((cell - 1) / 50 for cell in cells[:2])]  # q at the lookahead; the comparison with the exact one
    return f"| {name} | " + " | ".join(f"{cell + extra:.2f}" for cell, extra in zip(cells, renewed, strict=True)) + " |"


def digits(seed: int) -> tuple[Training, Loader, dict[int, Vector], list[Vector]]:
    """A training on digits with wrong labels; query gradients of some steps before, by age; and those of parts in turn."""
    source = Digits(label_noise=0.4, seed=0)
    cut = split(source, seed=seed)
    spec = DataSpec("image", (1, 8, 8), 10, None)
    torch.manual_seed(seed)
    nets = MLP(width=128, depth=1).build(spec), MLP(width=32, depth=1).build(spec)
    loader = Loader(source, cut.train, batch_size=50, seed=seed, labels=source.labels)
    fit(Distiller(nets[0], None, CE()), loader, torch.optim.SGD(nets[0].parameters(), lr=RATE), epochs=20)
    objective, weighting = KD(T=4) * 0.5 + CE() * 0.5, InfluenceWeighting(refresh=1)
    distiller = Distiller(nets[1], Single(nets[0], trained=True), objective, weighting=weighting)
    queries = whole(source, cut.query, source.truth)
    optimizer = torch.optim.SGD(nets[1].parameters(), lr=RATE)
    training = fit(distiller, loader, optimizer, steps=STEPS - max(AGES), queries=queries)
    old, turned = {}, [InTurn(parts) for parts in PARTS]

    def turn() -> list[Vector]:
        return [
            one(queries, lambda few: mean_gradient(distiller.student, distiller.task().query_loss, [few]))[0] for one in turned
        ]

    for batch in islice(chain(loader.epoch(9), loader.epoch(10)), max(AGES)):
        turn()
        old[STEPS - training.number] = query_gradient(training)[0]
        weighted_backward(training, batch)
        training.apply()
        training.number += 1
    return training, loader, old, turn()


def gradient(training: Training, batch: Batch, pull: Vector | None, **settings: object) -> Vector:
    """The teacher's gradient by one order; all else stays as it was but for the renewal of a q."""
    step = Simultaneous(**settings)
    step.prepare(training, None, resumed=False)
    record, parts = weighted_backward(training, batch)
    if step.rule.order == "exact":
        teacher_backward(training, step.model, step.rule, parts, record.weights, weighted=True)
    else:
        first_order_backward(training, step.model, step.rule, parts, record.weights, record.weights, pull)
    found = step.gradient()
    training.optimizer.zero_grad(set_to_none=True)
    step.optimizer.zero_grad(set_to_none=True)
    return found


def agreements(seed: int, factor: float) -> list[list[float]]:
    """Cosines with the exact gradient, for some batches: of the feedback by the age of its query gradient, then of the whole."""
    training, loader, old, turned = digits(seed)
    training.base_rates = [RATE * factor]
    student, loss = training.distiller.student, training.distiller.task().query_loss
    rows = []
    for batch in islice(loader.epoch(11), LOOKS):
        few = mean_gradient(student, loss, [next_queries(training, len(batch))])[0]
        pulls = [query_gradient(training)[0], *(old[age] for age in AGES), *turned, few]
        direct = {order: gradient(training, batch, None, order=order) for order in ("exact", "first")}
        exact = gradient(training, batch, None, feedback=1.0)
        first = [gradient(training, batch, pull, order="first", feedback=1.0) for pull in pulls]
        back = [combine(part, -1, direct["first"]) for part in first]
        own = combine(exact, -1, direct["exact"])
        rows.append([*(cosine(own, part) for part in back), cosine(direct["exact"], direct["first"]), cosine(exact, first[0])])
        training.number += 1  # other queries, and another q, next time
    return rows


def main() -> None:
    """Measure, and print Markdown tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--time", action="store_true", help="time of the teacher's update")
    parser.add_argument("--agreement", action="store_true", help="how far the feedback agrees with retraining")
    parser.add_argument(
        "--pairs", nargs="+", default=["encoder", "resnet20"], choices=list(PAIRS), help="pairs of nets to measure"
    )
    parser.add_argument("--batch", type=int, default=64, help="samples of a step")
    parser.add_argument("--queries", type=int, default=QUERIES, help="samples of the query set, for --time")
    parser.add_argument("--repeats", type=int, default=5, help="times that each is measured")
    parser.add_argument("--seeds", type=int, default=3, help="runs for --agreement")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.agreement:
        ages = " | ".join(f"{age} steps old" for age in AGES)
        parts = " | ".join(f"{count} parts in turn" for count in PARTS)
        print(f"| student's step, in its rate | feedback, fresh | {ages} | {parts} ", end="")
        print("| fresh, 50 of 200 queries | direct part | both |")
        print("|---|---|" + "---|" * (len(AGES) + len(PARTS) + 3))
        for factor in (0.1, 1.0, 10.0):
            rows = [row for seed in range(options.seeds) for row in agreements(seed, factor)]
            cells = [f"{statistics.mean(part):.3f} ({min(part):.3f} to {max(part):.3f})" for part in zip(*rows, strict=True)]
            print(f"| {factor:g} | " + " | ".join(cells) + " |", flush=True)
    if options.time:
        print("| pair | " + " | ".join(KINDS) + " |\n|---|---|---|---|---|")
        for name in options.pairs:
            print(times(name, options.batch, options.queries, options.repeats), flush=True)


if __name__ == "__main__":
    sys.exit(ended(main))
