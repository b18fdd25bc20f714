"""What a step of a method costs, in steps of plain distillation: time, the time that it may take, and memory.

Each method is measured interleaved with plain KD, in process time: what comes before a run's first step is not counted; steps
with weights are those of a whole run, with all that is renewed now and then. Memory is the bytes that autograd keeps for the
backward pass with the parameters, buffers and gradients of the terms' own parts.

What a step may take is the catalogue's number where it has one: that of a method that goes through the nets more often. Else it
is what it multiplies, in matrices and convolutions, over what plain KD does. Beside that stands what no counter of products sees
and no implementation can do without, measured in the same go: to read the same taps of both nets and hand each of the student's a
gradient (a term that does this and nothing else), and the library's time to sort and to search. Where there is an independent
implementation, it is a step with that in the place of ours, if that takes more. It is never less than a plain step.
"""

import ctypes
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from limbeck.core.objective import Objective
from limbeck.core.outputs import Views
from limbeck.core.term import Term, teacher_of
from limbeck.experiment.arms import Arm
from limbeck.experiment.seeded import Seeded, seeded
from limbeck.experiment.unit import Worker
from limbeck.losses.labels.ce import CE
from limbeck.training.callback import Callback
from limbeck.training.fit import fit
from limbeck.training.training import Record, Training

Cost = tuple[float, float, float]
"""Time of a step, what it may take, and its memory, over plain KD's."""
STEPS = 4
"""Of a method between two goes of plain KD: few, so that both see the machine alike."""
REPEATS = 15
"""Goes of a method that count; a third of them where a go is a whole run."""


class Meter(Callback):
    """Reads something after every step."""

    def __init__(self, read: Callable[[], float]) -> None:
        self.read = read
        self.seen: list[float] = []

    def after_step(self, training: Training, record: Record) -> None:
        """Read."""
        self.seen.append(self.read())


Steps = Callable[[Callable[[], float]], float]
"""Takes some steps, and tells by how much what is read grew in one of them, in the mean."""


def stepper(worker: Worker, arm: Arm, data: Seeded, teacher: nn.Module, count: int) -> tuple[Steps, Callable[[], int]]:
    """A function that takes a few steps of the method, and one that tells the bytes that a step keeps.

    Args:
        worker: Of the method.
        arm: Of the method.
        data: The task.
        teacher: Trained.
        count: Steps that are looked at, after one that is not; 0 for all those of a run.
    """
    torch.manual_seed(0)
    student = worker.parts.student.build(data.spec)
    distiller, loader = worker._distiller(arm, data, student, teacher)
    optimizer = worker.parts.optimizer.build(distiller.trained())
    average = arm.average()
    if average is not None:
        average.begin(1000, data.validation)
    callbacks = [] if average is None else [average]
    first = sum(part.numel() * part.element_size() for part in distiller.objective.state_dict().values())

    def steps(read: Callable[[], float]) -> float:
        meter, began, run = Meter(read), read(), worker.steps(data)
        own, step = [*callbacks, meter], arm.step()
        fit(
            distiller,
            loader,
            optimizer,
            steps=count + 1 if count else run,
            queries=data.queries,
            step=step,
            seed=0,
            callbacks=own,
        )
        return (meter.seen[-1] - meter.seen[0]) / count if count else (meter.seen[-1] - began) / run

    def kept() -> int:
        held: dict[int, int] = {}

        def pack(part: Tensor) -> Tensor:
            held[part.untyped_storage().data_ptr()] = part.untyped_storage().nbytes()
            return part

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda part: part):
            total = distiller(next(loader.epoch(0))).total
        del total
        return sum(held.values()) + 3 * first

    return steps, kept


class Reading(Term):
    """Reads taps of both sides whole, and gives each of the student's a gradient of 0."""

    needs = frozenset({"teacher", "student_features", "teacher_features"})

    def __init__(self, student: tuple[str, ...], teacher: tuple[str, ...]) -> None:
        super().__init__()
        self.sides = (student, teacher)

    @property
    def student_taps(self) -> tuple[str, ...]:
        """The student's."""
        return self.sides[0]

    @property
    def teacher_taps(self) -> tuple[str, ...]:
        """The teacher's."""
        return self.sides[1]

    def forward(self, views: Views) -> Tensor:
        """Zeros, [B]."""
        parts = [*views.student.features.values(), *teacher_of(views, "Reading").features.values()]
        return torch.stack([0 * part.flatten(1).sum(1) for part in parts]).sum(0)


class Searching(TorchDispatchMode):
    """Counts the seconds that the library takes to sort and to search."""

    counted = (torch.ops.aten.topk, torch.ops.aten.sort, torch.ops.aten.kthvalue)

    def __init__(self) -> None:
        super().__init__()
        self.seconds = 0.0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        """Run the operation."""
        began = time.process_time()
        found = func(*args, **kwargs or {})
        if func.overloadpacket in self.counted:
            self.seconds += time.process_time() - began
        return found


def products(steps: Steps) -> float:
    """How many multiplications and additions the matrix products and convolutions of a step take."""
    with FlopCounterMode(display=False) as counted:
        return steps(counted.get_total_flops)


def searches(steps: Steps) -> float:
    """Seconds of a step in which the library sorts and searches, the least of three goes."""

    def once() -> float:
        with Searching() as counted:
            return steps(lambda: counted.seconds)

    return min(once() for _ in range(3))


def keep_freed() -> None:
    """Have glibc keep what is freed: else steps pay, by chance, for pages that the system takes away and hands out again."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        trim_threshold, mmap_threshold = -1, -3
        mallopt(trim_threshold, 2**30)
        mallopt(mmap_threshold, 2**25)


def measured(
    plain: tuple[Worker, Arm], own: tuple[Worker, Arm], said: float | None, theirs: Callable[[], Term] | None, *, whole: bool
) -> Cost:
    """What a step of a method costs, over plain KD's.

    Args:
        plain: Worker and arm of plain KD.
        own: Those of the method.
        said: What the catalogue allows.
        theirs: Makes an independent implementation of the method's term, to be trained with `CE()`.
        whole: Whether all steps of a run are looked at.
    """
    keep_freed()
    sets = seeded(own[0].recipe, own[0].parts, 0)
    teacher = own[0].teacher(sets).model
    base, base_kept = stepper(*plain, sets, teacher, 40 if whole else STEPS)
    steps, kept = stepper(*own, sets, teacher, 0 if whole else STEPS)

    def in_place(term: Callable[[], Term]) -> Steps:
        return stepper(own[0], replace(own[1], objective=lambda: Objective([(1.0, term()), (1.0, CE())])), sets, teacher, STEPS)[
            0
        ]

    objective = own[1].objective()
    others = {"own": steps}
    if said is None and objective.student_taps:
        others["reading"] = in_place(lambda: Reading(objective.student_taps, objective.teacher_taps))
    if said is None and theirs is not None:
        others["theirs"] = in_place(theirs)
    ratios: dict[str, list[float]] = {name: [] for name in others}
    plains = []
    for number in range((REPEATS // 3 if whole else REPEATS) + 1):
        before = base(time.process_time)
        for name, act in others.items():
            spent, after = act(time.process_time), base(time.process_time)
            if number:
                ratios[name].append(2 * spent / (before + after))
                plains.append(before)
            before = after
    taken = {name: statistics.median(found) for name, found in ratios.items()}
    if said is None:
        reading = max(taken.get("reading", 1.0) - 1, 0.0)
        said = products(steps) / products(base) + reading + searches(steps) / statistics.median(plains)
        said = max(said, taken.get("theirs", 0.0), 1.0)
    return taken["own"], said, kept() / base_kept()
