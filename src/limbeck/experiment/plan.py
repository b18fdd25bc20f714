"""What a run would do and about what it would cost. Trains nothing, writes nothing."""

import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from limbeck.align.taps import Tapped
from limbeck.data.loader import Loader
from limbeck.distiller import Distiller
from limbeck.engine.local import LocalEngine
from limbeck.evaluation.cost import flops, parameters
from limbeck.experiment.arms import Arm
from limbeck.experiment.progress import Silent
from limbeck.experiment.ready import as_teacher, cost_of, spoken_cost
from limbeck.experiment.recipe import Parts, Recipe
from limbeck.experiment.seeded import Seeded, doubts_about_queries
from limbeck.experiment.unit import Worker
from limbeck.training.advice import advice

MANY = 1_000_000
"""Tokens that are written for figures: fewer need no word."""


@dataclass(frozen=True)
class Plan:
    """Lines to print, and the estimates in them.

    Args:
        lines: What the run would do, line by line.
        seconds: Estimated time of the whole run, in seconds.
        memory_bytes: Estimated memory of one step beyond the data.
    """

    lines: tuple[str, ...]
    seconds: float
    memory_bytes: int

    def __str__(self) -> str:
        return "\n".join(self.lines)


def plan(recipe: Recipe, parts: Parts, arms: list[Arm], data: Seeded) -> Plan:
    """Look at data, shapes, sizes and the time of a step; forward and backward passes are timed on nets that are thrown away."""
    worker = Worker(recipe, parts, LocalEngine(), Path(), Silent())
    teacher, student = parts.teacher.build(data.spec), parts.student.build(data.spec)
    loader = Loader(parts.data, data.splits.train, batch_size=recipe.batch_size, seed=0, labels=data.labels)
    batch = next(iter(loader.epoch(0)))
    distiller = Distiller(student, as_teacher(teacher), arms[-1].objective()).build(loader)
    distiller.check(batch)
    step_s, activations = _measure(distiller, batch)
    teacher_steps, student_steps = worker.steps(data, teacher=True) * len(worker.teachers), worker.steps(data)
    students = {arm.name: worker.generations(arm) for arm in arms}
    asked = any(arm.weighting().needs_queries for arm in arms)
    weighted = sum(students[arm.name] * arm.extra(recipe.epochs) for arm in arms)
    count = sum(students.values()) + len(parts.assistants)
    seconds = recipe.seeds * step_s * (teacher_steps + student_steps * (count + weighted))
    sizes = [4 * parameters(teacher), 4 * parameters(student)]
    memory = sizes[0] + 5 * sizes[1] + activations  # student: weights, gradient, momentum, q and a lookahead or factors
    times = f"{teacher_steps} for the teacher + {count} x {student_steps} for the students"
    with torch.no_grad():
        shape = list(Tapped(student.eval())(batch).logits.shape)
    lines = (
        f"recipe     {recipe.name}: nothing is trained and nothing written",
        f"data       {parts.data.name}: {_samples(parts, data)}",
        f"shapes     a batch is {list(batch.inputs.shape)}, logits are {shape}",
        f"teacher    {parts.teacher!r}: {spoken_cost(cost_of(teacher, batch))}",
        *(f"assistant  {net!r}: {parameters(net.build(data.spec)):,} parameters" for net in parts.assistants),
        f"student    {parts.student!r}: {parameters(student):,} parameters, {flops(Tapped(student), batch):,} FLOPs a sample",
        f"objective  {distiller.objective!r}",
        f"weighting  {recipe.weighting}, balancer {recipe.balancer}, step {recipe.step}, mixture {recipe.mixture or 'none'}",
        *(f"weights    {words}" for words in [arms[-1].schedule(recipe.epochs)] if words),
        f"arms       {'; '.join(arm.title for arm in arms)}",
        f"steps      {_count(recipe.seeds, 'seed')} x ({times})",
        f"memory     {f'about {memory / 2**20:.0f}' if memory > 2**20 else 'less than 1'} MB a step beside the data",
        f"time       about {_spoken(seconds)} ({1000 * step_s:.1f} ms a plain step here and now)",
        *(f"note       {sentence}" for sentence in advice(distiller, batch, teacher_moves=True)),
        *(f"note       {doubt}" for doubt in (*parts.data.doubts, *(doubts_about_queries(parts.data, data) if asked else ()))),
        *_about_completions(recipe, data, recipe.seeds * worker.units(arms)),
    )
    return Plan(lines, seconds, memory)


def _samples(parts: Parts, data: Seeded) -> str:
    """How many samples each part of the data has, and how many labels are wrong or missing."""
    said = [f"{size} {name}" for name, size in data.splits.counts.items()]
    if data.clean is not None:
        said.append(f"{int((~data.clean[data.splits.train]).sum())} training labels are wrong")
    blank = int((~parts.data.labelled).sum())
    return ", ".join([*said, *([f"{blank} training samples have no label"] if blank else [])])


def _about_completions(recipe: Recipe, data: Seeded, nets: int) -> list[str]:
    """What is written for figures alone, where it is so much that it may take longer than the training."""
    tokens = nets * recipe.completions * data.spec.input_shape[0]
    return [f"note       completions: {nets} nets write up to {tokens:,} tokens, a forward pass each"] if tokens > MANY else []


def _measure(distiller: torch.nn.Module, batch: object) -> tuple[float, int]:
    """Median seconds of a forward and backward pass with the teacher's, and bytes that autograd keeps for it."""
    kept: dict[int, int] = {}

    def pack(part: Tensor) -> Tensor:
        kept[part.untyped_storage().data_ptr()] = part.untyped_storage().nbytes()
        return part

    seconds = []
    for number in range(8):
        began = time.perf_counter()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda part: part):
            total = distiller(batch).total
        torch.autograd.backward(total)
        if number >= 3:
            seconds.append(time.perf_counter() - began)
        distiller.zero_grad(set_to_none=True)
        if number < 7:
            kept.clear()
    return statistics.median(seconds), sum(kept.values())


def _count(number: int, what: str) -> str:
    """A number of things."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _spoken(seconds: float) -> str:
    """A time as people say it."""
    if seconds < 90:
        return _count(max(1, round(seconds)), "second")
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"
