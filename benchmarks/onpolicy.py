"""Ways to distil a language model on texts that it writes, beside plain rivals at the same number of steps: a table each.

    python benchmarks/prepare_text.py FOLDER shakespeare --characters 150000 --out runs/data/shakespeare.txt
    python benchmarks/onpolicy.py recipes/shakespeare.yaml --size small

Other studies take other data, of `prepare_text.py` too (docs/log.md has their commands):

* `texts`: GKD with lambda 0, 0.5 and 1, SeqKD with fresh samples, and labels alone. Two things are measured: how well the student
  knows the data's texts, and how near it is to the teacher on texts of its own.
* `minillm`: MiniLLM, on-policy reverse KL and GKD beside forward KL and labels alone, with the same figures.
* `rewards`: GRPO and RLAD, whose reward is whether the completion is the data's, beside rivals that read that completion.
* `preferences`: DCKD and ADPA beside labels and forward KL on preferred replies. The teacher is trained on preferred replies and
  then aligned by DPO; what the student replies itself is written once.

All arms of a seed share teacher, first weights and order of samples; with `--begin N` the first weights are those of a student
that was trained on labels alone for N epochs, by `teacher_optimizer`. Finished trainings are kept under --out and read, not run
again.

Just over 300 lines: the studies share teacher, students and table, and are comparable because they do.
"""

import argparse
import hashlib
import json
import statistics
import sys
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ended import ended
from limbeck.core.batch import Batch
from limbeck.data.loader import whole
from limbeck.data.preferences import Preferences
from limbeck.data.seeding import generator_for
from limbeck.engine.local import LocalEngine
from limbeck.evaluation.verdict import compare
from limbeck.experiment.arms import Arm, arms_of
from limbeck.experiment.progress import Silent
from limbeck.experiment.recipe import Recipe, load
from limbeck.experiment.seeded import Seeded, seeded
from limbeck.experiment.unit import Unit, Worker
from limbeck.functional.divergences import log_softmax, reverse_kl, token_mean
from limbeck.functional.target_split import own
from limbeck.llm.replies import write_replies
from limbeck.llm.rollouts import generate
from limbeck.models.spec import Architecture, Kind
from limbeck.teachers.aligned import Aligned
from limbeck.teachers.single import Single
from limbeck.weighting.uniform import Uniform

CONTEXT, ROWS = 16, 256
"""Tokens of a prompt of packed rows, which is completed to the end of its row, and test prompts that are completed."""
STREAM = 0x0E7A
"""Keeps the numbers drawn here apart from those of the training."""
LARGER = frozenset({"exact_match", "preferred", "margin"})
"""Figures of which more is better; of all others less is."""
DPO_BETA, DPO_EPOCHS, DPO_RATE = 0.1, 3, 1e-3
ONLY_CE = ("Student()", "CE()")
CHOSEN = 'OnReplies(CE(), "chosen")'
FIDELITY = {"test NLL": "nll", "KL(p, q), test texts": "fidelity_kl"}
OWN = {"KL(q, p), own texts": "own_kl", "teacher's NLL of own texts": "own_nll"}


@dataclass(frozen=True)
class Study:
    """A table.

    Args:
        ways: Step and objective of every arm, by its title; the first is what the others are compared with.
        figures: Column and figure, nats a token or shares; p is the teacher, q the student.
        measured: Figures beside those of the run, of (student, teacher, worker, data).
    """

    ways: dict[str, tuple[str, str]]
    figures: dict[str, str]
    measured: Callable[[nn.Module, nn.Module, Worker, Seeded], dict[str, float]] = lambda *_: {}

    @property
    def base(self) -> str:
        """The arm that others are compared with."""
        return next(iter(self.ways))


@torch.no_grad()
def on_own_texts(student: nn.Module, teacher: nn.Module, worker: Worker, data: Seeded) -> dict[str, float]:
    """KL(q || p) at the places that the student writes, and the teacher's NLL of what it wrote, per token."""
    student, teacher, prompts = student.eval(), teacher.eval(), data.test.take(slice(0, ROWS))
    known = torch.full((len(prompts),), CONTEXT)
    generators = [generator_for(data.seed, STREAM, row) for row in prompts.index.tolist()]
    wrote = generate(student, prompts.inputs, known, length=prompts.inputs.shape[1] - CONTEXT, generators=generators)
    log_q, log_p = (log_softmax(net(wrote.ids[:, :-1])) for net in (student, teacher))
    counted, tokens = wrote.mask[:, 1:], wrote.ids[:, 1:]
    return {
        "own_kl": float(reverse_kl(log_p, log_q)[counted].double().mean()),
        "own_nll": float(-own(log_p, tokens)[counted].double().mean()),
    }


@torch.no_grad()
def on_pairs(student: nn.Module, teacher: nn.Module, worker: Worker, data: Seeded) -> dict[str, float]:
    """How often the student holds the preferred reply to a test prompt the likelier one per token, and by how much on average."""
    chosen = data.test.index
    good, bad = (token_means(student.eval(), rows_of(worker, rows)) for rows in (chosen, chosen + 1))
    return {"preferred": float((good > bad).double().mean()), "margin": float((good - bad).double().mean())}


def studies(divergence: str) -> dict[str, Study]:
    """All of them, by name."""
    written, of_pairs = f"context={CONTEXT}", "TopKTail(KD(T=1), k=50)"
    reward = "GRPO(SameText(), group=8, length=8)"
    texts = {
        "GKD, lambda 0": ("Student()", divergence),
        "GKD, lambda 0.5": (f"OnPolicy(0.5, {written})", divergence),
        "GKD, lambda 1": (f"OnPolicy(1.0, {written})", divergence),
        "SeqKD": (f'OnPolicy(1.0, "teacher", {written})', "CE()"),
        "labels alone": ONLY_CE,
    }
    minillm = {
        "forward KL": ("Student()", "KD(T=1)"),
        "labels alone": ONLY_CE,
        "GKD, lambda 1": (f"OnPolicy(1.0, {written})", divergence),
        "reverse KL, on-policy": (f"OnPolicy(1.0, {written})", "ReverseKL(T=1)"),
        "MiniLLM": (f'WithText(OnPolicy(1.0, "both", {written}, reuse=4))', "MiniLLM()"),
    }
    rewards = {
        "labels alone": ONLY_CE,
        "forward KL": ("Student()", "KD(T=1)"),
        "reverse KL, on-policy": ("OnPolicy(1.0, length=8)", "ReverseKL(T=1)"),
        "GRPO": (reward, "TRRD(alpha=1)"),
        "RLAD": (reward, "TRRD()"),
        "after KDRL": (reward, "TRRD(alpha=1) + ReverseKL(T=1) * 0.01"),
    }
    preferences = {
        "labels of preferred": ("Student()", CHOSEN),
        "forward KL of preferred": ("Student()", f'{CHOSEN} + OnReplies({of_pairs}, "chosen") * 0.2'),
        "DCKD": ("Student()", f'{CHOSEN} + OnReplies({of_pairs}, "chosen") * 0.2 + OnReplies({of_pairs}, "rejected") * 0.2'),
        "ADPA": ("Student()", f'{CHOSEN} + OnReplies(ADPA(k=50), "own") * 1.5'),
    }
    right, pairs = {"right, greedily": "exact_match"}, {"prefers the preferred": "preferred", "margin": "margin"}
    return {
        "texts": Study(texts, {**FIDELITY, **OWN}, on_own_texts),
        "minillm": Study(minillm, {**FIDELITY, **OWN}, on_own_texts),
        "rewards": Study(rewards, {**right, **FIDELITY}),
        "preferences": Study(preferences, {**FIDELITY, **pairs}, on_pairs),
    }


def arms(recipe: Recipe, worker: Worker, ways: dict[str, tuple[str, str]]) -> list[Arm]:
    """One arm for each way, all weights 1."""
    main, found = arms_of(recipe, worker.parts)[-1], []
    for title, (step, objective) in ways.items():
        made = Recipe.of({**recipe.model_dump(), "step": step, "objective": objective})
        name = "p" + hashlib.sha256(f"{step} {objective}".encode()).hexdigest()[:10]
        here = arms_of(made, worker.parts)[-1]
        step_of = made.expressions()["step"].build
        found.append(replace(main, name=name, title=title, weighting=Uniform, step=step_of, objective=here.objective))
    return found


@dataclass(frozen=True, repr=False)
class Begun(Architecture):
    """A net that has learnt already, in the place of a fresh one."""

    takes: ClassVar[tuple[Kind, ...]] = get_args(Kind)

    model: nn.Module

    def make(self, spec: object) -> nn.Module:
        """A copy of it."""
        return deepcopy(self.model)


def begun(worker: Worker, data: Seeded, teacher: nn.Module, epochs: int) -> Unit:
    """A student that was trained on labels alone, by the teacher's optimiser."""
    recipe = Recipe.of({**worker.recipe.model_dump(), "epochs": epochs, "compare": ["no_kd"]})
    arm = replace(arms_of(recipe, worker.parts)[0], name="begun", title="begun")
    parts = replace(worker.parts, optimizer=worker.parts.teacher_optimizer)
    return replace(worker, recipe=recipe, parts=parts).student(arm, data, teacher)


def beginning(worker: Worker, unit: Unit) -> Worker:
    """The worker whose students begin with this one's weights."""
    return replace(worker, parts=replace(worker.parts, student=Begun(unit.model)))


def rows_of(worker: Worker, rows: Tensor) -> Batch:
    """These rows of the data, as they are."""
    return whole(worker.parts.data, rows, worker.parts.data.labels)


def token_means(net: nn.Module, batch: Batch) -> Tensor:
    """The mean log-probability of the counted labels of every row, [B]."""
    assert batch.targets is not None
    return token_mean(own(log_softmax(net(batch.inputs)), batch.targets), batch.mask)


def aligned(net: nn.Module, worker: Worker, data: Seeded) -> nn.Module:
    """The net after DPO on the training pairs, beside what it was."""
    after, before = deepcopy(net).train(), deepcopy(net).eval().requires_grad_(False)
    chosen = data.splits.train[worker.parts.data.meta["reply"][data.splits.train] == 0]
    optimizer = torch.optim.Adam(after.parameters(), lr=DPO_RATE)
    generator = generator_for(data.seed, STREAM, 0)
    for _ in range(DPO_EPOCHS):
        for rows in chosen[torch.randperm(len(chosen), generator=generator)].split(16):
            pairs = [rows_of(worker, one) for one in (rows, rows + 1)]
            good, bad = (summed(after, pair) - summed(before, pair).detach() for pair in pairs)
            optimizer.zero_grad()
            (-F.logsigmoid(DPO_BETA * (good - bad))).mean().backward()
            optimizer.step()
    return Aligned(Single(after.eval()), Single(before))


def summed(net: nn.Module, batch: Batch) -> Tensor:
    """The log-probability of every row's reply, [B]."""
    assert batch.mask is not None
    return token_means(net, batch) * batch.mask.sum(1)


def answered(worker: Worker, home: Path, seed: int) -> Worker:
    """The worker on the same pairs with what its student replies itself."""
    data, recipe, path = worker.parts.data, worker.recipe, home / f"own{seed}.parquet"
    assert isinstance(data, Preferences)
    if not path.exists():
        write_replies(worker.parts.student.model, data, path, length=data.input_shape[0], batch_size=64, seed=seed)
    text = recipe.data.replace(f'"{data.path}"', f'"{path}"').removesuffix(")") + ', own="own")'
    found = Recipe.of({**recipe.model_dump(), "data": text})
    return replace(worker, recipe=found, parts=replace(found.build(), student=worker.parts.student))


def trained(worker: Worker, study: Study, out: Path, begin: int) -> dict[str, list[dict]]:
    """The figures by arm, one entry per seed."""
    found: dict[str, list[dict]] = {}
    recipe = worker.recipe
    home = out / hashlib.sha256(json.dumps([recipe.model_dump(exclude={"seeds"}), begin]).encode()).hexdigest()[:10]
    home.mkdir(parents=True, exist_ok=True)
    for seed in range(recipe.seed, recipe.seed + recipe.seeds):
        here = replace(worker, home=home)
        data = seeded(recipe, here.parts, seed)
        tutor = here.teacher(data)
        teacher, judged = tutor.model, {"teacher": tutor}
        if begin:
            judged["as all begin"] = begun(here, data, teacher, begin)
            here = beginning(here, judged["as all begin"])
        if isinstance(here.parts.data, Preferences):
            teacher, here = aligned(teacher, here, data), answered(here, home, seed)
            data = seeded(here.recipe, here.parts, seed)
            judged["teacher after DPO"] = replace(tutor, model=guide_of(teacher), figures={})
        for arm in arms(here.recipe, here, study.ways):
            judged[arm.title] = here.student(arm, data, teacher)
        for title, unit in judged.items():
            more = study.measured(unit.model, guide_of(teacher), here, data)
            found.setdefault(title, []).append({**unit.figures, **more, "seconds": unit.seconds})
    return found


def guide_of(teacher: nn.Module) -> nn.Module:
    """The net that the students are compared with."""
    return teacher.after.tapped.model if isinstance(teacher, Aligned) else teacher


def table(found: dict[str, list[dict]], study: Study) -> str:
    """One row an arm: means over seeds, and in brackets the 95 % interval of the gain over the first arm."""
    lines = [
        f"\n{len(found[study.base])} paired seeds; in brackets the gain over {study.base}, 95 % interval\n",
        f"| | {' | '.join(study.figures)} | time of a run, s |",
        "|---" * (len(study.figures) + 2) + "|",
    ]
    for title, seeds in found.items():
        base = found[study.base] if title in study.ways and title != study.base else None
        cells = [cell(key, seeds, base) for key in study.figures.values()]
        lines.append(f"| {title} | {' | '.join(cells)} | {statistics.mean(one['seconds'] for one in seeds):.0f} |")
    return "\n".join(lines)


def cell(key: str, seeds: list[dict], base: list[dict] | None) -> str:
    """The mean, and what is gained over the base."""
    if any(one.get(key) is None for one in seeds):
        return "-"
    mean, sign = f"{statistics.mean(one[key] for one in seeds):.3f}", 1 if key in LARGER else -1
    if base is None:
        return mean
    gain = compare([sign * one[key] for one in seeds], [sign * one[key] for one in base])
    return mean if gain.low is None else f"{mean} ({gain.effect:+.3f}: {gain.low:+.3f} to {gain.high:+.3f})"


def main() -> None:
    """Train what is not there yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", help="a built-in recipe or a YAML file")
    parser.add_argument("--study", default="texts", choices=list(studies("")), help="what is compared")
    parser.add_argument("--size", help="one of the recipe's sizes")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="changes of the recipe")
    parser.add_argument("--objective", default="JSD()", help="GKD's divergence")
    parser.add_argument("--begin", type=int, default=0, help="epochs on labels alone that all students have behind them")
    parser.add_argument("--arms", nargs="*", metavar="TITLE", help="these arms alone, and the first one")
    parser.add_argument("--seeds", type=int, default=3, help="paired runs of each arm")
    parser.add_argument("--out", type=Path, default=Path("runs/onpolicy"), help="folder of runs and figures")
    options = parser.parse_args()
    recipe = load(options.recipe, size=options.size, settings=["compare=[uniform]", *options.set], seeds=options.seeds)
    torch.set_num_threads(recipe.threads)
    study = studies(options.objective)[options.study]
    if options.arms is not None:
        if unknown := set(options.arms) - set(study.ways):
            parser.error(f"--arms: {', '.join(sorted(unknown))} is no arm of {options.study}; there are {', '.join(study.ways)}")
        study = replace(study, ways={title: way for title, way in study.ways.items() if title in (study.base, *options.arms)})
    worker = Worker(recipe, recipe.build(), LocalEngine(), options.out, Silent())
    print(table(trained(worker, study, options.out, options.begin), study), flush=True)


if __name__ == "__main__":
    sys.exit(ended(main))
