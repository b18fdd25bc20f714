"""Time and peak memory of a KD-AIF step over the plain distillation step of the same pair, interleaved, in one process.

    python benchmarks/step.py [--pairs mlp encoder resnet8x4 mobilenet] [--batch 64] [--repeats 15] [--quick] [--memory]

`exact` is a step with exact scores and weights and a q that is already there; `amortised` adds what EK-FAC costs at the default
schedule (q every 20 steps from the 200 queries, of which a third has its turn; a renewal of the running statistics every 50; the
eigenbasis turned every 200), measured and divided by its period; the first estimate of a run is left out. `all queries` is the
same with the gradient of all of them each time (`turns=1`). Ratios are medians of paired ratios, with their quartiles.
`--quick` takes three repeats: minutes for a ResNet. `round` is a batch's share of a round of stored scores, which reads four
batches together (of language one), q at hand and curvature left out (both are there once a round, however many samples there
are): in the first round, and in later ones, which have the teacher's answers; `later / pass` is beside a forward and backward
pass of the student alone.
`--memory` runs each kind of step in a process of its own and compares the peak of all tensors that a step makes (what is there
before it, parameters and q, is not in it), and the peak of resident memory in three first steps, curvature and query
gradient included.
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from ended import ended
from limbeck.core.batch import Batch
from limbeck.distiller import Distiller
from limbeck.engine.local import LocalEngine
from limbeck.influence.curvature.ekfac import EKFAC
from limbeck.influence.curvature.identity import Identity
from limbeck.influence.curvature.solver import Problem
from limbeck.influence.gradients import mean_gradient
from limbeck.influence.in_turn import InTurn, parts_of
from limbeck.influence.pieces import Pieces
from limbeck.influence.prepared import prepare
from limbeck.influence.task import Task
from limbeck.influence.vectors import Vector
from limbeck.losses.labels.ce import CE
from limbeck.losses.logits.kd import KD
from limbeck.models.gpt import GPT
from limbeck.models.mlp import MLP
from limbeck.models.mobilenet import MobileNetV2
from limbeck.models.resnet import ResNet8x4, ResNet20, ResNet32x4, ResNet56
from limbeck.models.spec import Architecture, DataSpec
from limbeck.models.transformer import Transformer
from limbeck.teachers.remembered import Remembered
from limbeck.teachers.single import Single
from limbeck.training.steps.student import Student
from limbeck.training.training import Training
from limbeck.weighting.influence import InfluenceWeighting
from limbeck.weighting.uniform import Uniform
from limbeck.weighting.weighting import Setting

IMAGES = DataSpec("image", (3, 32, 32), 100, None)
FEW = 32
"""Samples of the first estimate, whose time is in no figure: on a ResNet the default's 512 take minutes. It holds as many at a
time, so that more of them take no more memory."""
QUERIES = 200
TOKENS = DataSpec("tokens", (64,), 10, 1000)
TEXT = DataSpec("language", (64,), 1000, 1000)
PAIRS: dict[str, tuple[Architecture, Architecture, DataSpec]] = {
    "mlp": (MLP(width=128, depth=1), MLP(width=32, depth=1), DataSpec("image", (1, 8, 8), 10, None)),
    "encoder": (Transformer(width=256, depth=4, heads=4), Transformer(width=128, depth=3, heads=4), TOKENS),
    "gpt": (GPT(width=224, depth=4, heads=4), GPT(width=128, depth=3, heads=4), TEXT),
    "resnet8x4": (ResNet32x4(), ResNet8x4(), IMAGES),
    "resnet20": (ResNet56(), ResNet20(), IMAGES),
    "mobilenet": (ResNet32x4(), MobileNetV2(), IMAGES),
}


KINDS: dict[str, Callable[[], InfluenceWeighting | Uniform]] = {
    "plain": Uniform,
    "stored": lambda: InfluenceWeighting(refresh="epochs:2", samples=2 * FEW),
    "each step": lambda: InfluenceWeighting(refresh=10**6, samples=2 * FEW),
    "way='carried', query_batch=64": lambda: InfluenceWeighting(refresh=10**6, samples=2 * FEW, way="carried", query_batch=64),
}
"""Whose peak memory is measured: the first estimate of EK-FAC is in it, and a round of scores of 256 samples."""


@dataclass
class Pair:
    """A teacher, a student and a batch, with the two kinds of step."""

    plain: Callable[[], object]
    weighted: Callable[[], object]
    query: Callable[[], object]
    turn_of_queries: Callable[[], object]
    renewal: Callable[[], object]
    turn: Callable[[], object]
    alone: Callable[[], object]
    first_round: Callable[[], object]
    later_round: Callable[[], object]


def batch_of(spec: DataSpec, count: int) -> Batch:
    """Random samples: time does not depend on what they show."""
    generator = torch.Generator().manual_seed(0)
    if spec.kind != "image":
        inputs = torch.randint(0, spec.vocabulary or 2, (count, *spec.input_shape), generator=generator)
    else:
        inputs = torch.randn(count, *spec.input_shape, generator=generator)
    labelled = inputs.shape if spec.kind == "language" else (count,)
    return Batch(inputs, torch.randint(0, spec.classes, labelled, generator=generator), torch.arange(count))


def training_of(name: str, weighting: InfluenceWeighting | Uniform, count: int, asked: int = QUERIES) -> tuple[Training, Batch]:
    """A run of the pair that stands before its first step, with `asked` query samples."""
    teacher, student, spec = PAIRS[name]
    torch.manual_seed(0)
    distiller = Distiller(student.build(spec), Single(teacher.build(spec)), KD(T=4) * 0.5 + CE() * 0.5, weighting=weighting)
    optimizer = torch.optim.SGD(distiller.student.parameters(), lr=0.01, momentum=0.9)
    engine = LocalEngine()
    queries = batch_of(spec, asked)
    training = Training(distiller, distiller.student, optimizer, engine, lambda *_: 1.0, steps=10**6, queries=queries)
    weighting.bind(
        Setting(
            distiller.student,
            distiller.task(),
            queries,
            lambda n, _: batch_of(spec, min(n, 512)),
            [batch_of(spec, 256)],
            classes=spec.classes,
        )
    )
    distiller.student.train()
    return training, batch_of(spec, count)


def pair_of(name: str, count: int) -> Pair:
    """The steps of a pair; the weighted one has its q already."""
    plain, batch = training_of(name, Uniform(), count)
    solver, turning = EKFAC(), EKFAC(statistics=1, basis=1)
    aif, _ = training_of(name, InfluenceWeighting(solver, refresh=10**6, samples=FEW), count)
    step = Student()
    step(aif, batch)
    student, task = aif.distiller.student, aif.distiller.task()
    assert aif.queries is not None
    queries, in_turn = aif.queries, InTurn(parts_of(QUERIES, InfluenceWeighting.TURNS))
    cut = Pieces(student, task.query_loss)

    def gradient(few: Batch) -> tuple[Vector, float]:
        return mean_gradient(student, task.query_loss, cut(few))

    in_turn(queries, gradient)
    problem = Problem(student, task, [batch_of(PAIRS[name][2], solver.samples)], torch.Generator().manual_seed(0))
    turning.update(problem, 0)
    piece = batch_of(PAIRS[name][2], piece_of(name, count))
    taught = Remembered(Single(PAIRS[name][0].build(PAIRS[name][2])), [piece.index], lambda _: piece)
    rounds = [scorer(student, aif.distiller.task(teacher), piece) for teacher in (None, taught)]
    return Pair(
        plain=lambda: step(plain, batch),
        weighted=lambda: step(aif, batch),
        query=lambda: solver.solve(mean_gradient(student, task.query_loss, aif.asked())[0], problem),
        turn_of_queries=lambda: solver.solve(in_turn(queries, gradient)[0], problem),
        renewal=lambda: solver.update(problem, 20),
        turn=lambda: turning.update(problem, 20),
        alone=lambda: mean_gradient(student, task.query_loss, [batch]),
        first_round=rounds[0],
        later_round=rounds[1],
    )


def piece_of(name: str, count: int) -> int:
    """Samples that a round reads together: of language as many as a step takes."""
    return count if PAIRS[name][2].kind == "language" else 4 * count


def scorer(student: nn.Module, task: Task, batch: Batch) -> Callable[[], object]:
    """Takes the scores of one piece of the data in a round of stored ones."""
    ready = prepare(student, task, [batch], [batch], Identity())
    q, _ = ready.direction()

    def scored() -> object:
        with ready.evaluating():
            return ready.products(batch, q)

    return scored


def seconds(act: Callable[[], object]) -> float:
    """Process time of one call: what other work on the machine hardly touches."""
    began = time.process_time()
    act()
    return time.process_time() - began


def measure(name: str, count: int, repeats: int) -> str:
    """One row of the table."""
    pair = pair_of(name, count)
    for _ in range(2):
        pair.plain(), pair.weighted()
    ratios, plain = [], []
    for _ in range(repeats):
        before, own, after = seconds(pair.plain), seconds(pair.weighted), seconds(pair.plain)
        ratios.append(2 * own / (before + after))
        plain.append((before + after) / 2)
    base = statistics.median(plain)
    pair.later_round()
    query, part, renewal, turn, alone, first, later = (
        statistics.median(seconds(act) for _ in range(3)) / base
        for act in (pair.query, pair.turn_of_queries, pair.renewal, pair.turn, pair.alone, pair.first_round, pair.later_round)
    )
    low, exact, high = statistics.quantiles(ratios, n=4)
    share, turns = count / piece_of(name, count), (turn - renewal) / 200
    first, later = first * share, later * share
    amortised, whole = (exact + asked / 20 + renewal / 50 + turns for asked in (part, query))
    return (
        f"| {name} | {1000 * base:.1f} | {exact:.2f} ({low:.2f}-{high:.2f}) | {amortised:.2f} | {whole:.2f} | "
        f"{part:.2f} | {query:.2f} | "
        f"{renewal:.2f} | {turn:.2f} | {first:.2f} | {later:.2f} | {later / alone:.2f} | {1 + later / 5:.2f}"
    )


def peak(name: str, kind: str, count: int) -> tuple[int, int]:
    """Bytes of a process that takes steps of one kind: the tensors of a step at their peak, and the growth of resident memory."""
    command = [sys.executable, __file__, "--peak-of", name, kind, "--batch", str(count)]
    tensors, grown = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return int(tensors), int(grown)


def resident(peak: bool = False) -> int:
    """This process's resident memory, or the most that it was, in bytes; of Linux, whose `ru_maxrss` begins with the parent's."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines["VmHWM" if peak else "VmRSS"].split()[0]) * 1024


def show_peak(name: str, kind: str, count: int) -> None:
    """Print the peak of a step's tensors, and how far the first three steps raised this process's memory."""
    training, batch = training_of(name, KINDS[kind](), count)
    training.number = 1  # after the first epoch of one step, when stored weights are taken
    before = resident()
    for _ in range(3):
        Student()(training, batch)
    grown = resident(peak=True) - before
    print(made(lambda: Student()(training, batch)), grown)


def made(act: Callable[[], object]) -> int:
    """Bytes of all tensors that are made on the way, at their peak."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        act()
    changes = [event for event in seen.profiler.kineto_results.events() if event.name() == "[memory]"]
    return max(accumulate(event.nbytes() for event in sorted(changes, key=lambda event: event.start_ns())))


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", nargs="+", default=list(PAIRS), choices=list(PAIRS), help="pairs of nets to measure")
    parser.add_argument("--batch", type=int, default=64, help="samples of a step")
    parser.add_argument("--repeats", type=int, default=15, help="times that each is measured")
    parser.add_argument("--threads", type=int, default=1, help="of the processor")
    parser.add_argument("--quick", action="store_true", help="three repeats")
    parser.add_argument("--memory", action="store_true", help="peak memory too")
    parser.add_argument("--peak-of", nargs=2, metavar=("PAIR", "KIND"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.peak_of:
        show_peak(*options.peak_of, options.batch)
        return
    print(f"torch {torch.__version__}, {options.threads} thread(s), batch {options.batch}, teacher live; process time.\n")
    print(
        "| pair | plain step, ms | exact / plain (quartiles) | amortised | all queries "
        "| q | q of all | renewal | with turn, in plain steps "
        "| round: first | later | later / pass | later, every 5 epochs |"
    )
    print("|---" * 13 + "|")
    for name in options.pairs:
        print(measure(name, options.batch, 3 if options.quick else options.repeats) + " |", flush=True)
    if options.memory:
        peaks = {name: [peak(name, kind, options.batch) for kind in KINDS] for name in options.pairs}
        for number, what in enumerate(("tensors of a step", "resident memory, three first steps")):
            print(f"\n| {what}: peak, MB | {' | '.join(KINDS)} |\n" + "|---" * (len(KINDS) + 1) + "|")
            for name, found in peaks.items():
                plain, *others = (both[number] / 2**20 for both in found)
                cells = [f"{plain:.0f}", *(f"{other:.0f} ({other / plain:.2f})" for other in others)]
                print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    sys.exit(ended(main))
