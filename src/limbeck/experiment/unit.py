"""One unit of a run: one net trained on one seed, from its data to its figures. Finished units are kept for resuming.

Just over 300 lines: a unit's training, keeping and taking up again must change together.
"""

import time
import warnings
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from limbeck.align.taps import Tapped
from limbeck.core.objective import Objective
from limbeck.data.loader import Loader
from limbeck.distiller import Distiller
from limbeck.engine.engine import Engine
from limbeck.experiment import folder as files
from limbeck.experiment.arms import Arm, assistant, labels_only
from limbeck.experiment.ending import Ending
from limbeck.experiment.logbook import Advance, Logbook, SampleTracker
from limbeck.experiment.measuring import figures_of, validated
from limbeck.experiment.progress import Progress
from limbeck.experiment.ready import Anchored, answering, as_teacher, gives_logits, is_given
from limbeck.experiment.recipe import Parts, Recipe
from limbeck.experiment.seeded import Seeded, given_teacher, loader_for
from limbeck.experiment.writing import Exam
from limbeck.influence.task import Distillation
from limbeck.losses.labels.ce import CE
from limbeck.models.deepensemble import DeepEnsemble
from limbeck.models.spec import Architecture
from limbeck.teachers.single import Single
from limbeck.teachers.teacher import Teacher
from limbeck.training.checkpoint import Keeper
from limbeck.training.fit import fit
from limbeck.training.steps.student import Student
from limbeck.weighting.uniform import Uniform

TEACHER = "teacher"
AFRESH = 2**32
"""Between the random states that nets of one seed begin with, so that no two seeds share one."""
PAUSE_S = 5.0
"""Least time between two checkpoints where the recipe does not say how often, in seconds."""


@dataclass(frozen=True)
class Unit:
    """What a finished unit left behind.

    Args:
        model: The trained net, as the recipe names it.
        figures: On the test split.
        rows: For metrics.jsonl.
        events: For result.json.
        seconds: How long it took.
        samples: Last and mean weight by identity, [N] each.
        teacher_after: Test accuracy of the teacher after a step that updates it.
        own_teacher: That teacher, or the student before in a chain of generations; None for the seed's teacher as it is.
        objective: The terms with their trained parts; None for a teacher that was read.
    """

    model: nn.Module
    figures: dict[str, float | None]
    rows: list[dict[str, Any]]
    events: list[dict[str, Any]]
    seconds: float
    samples: dict[str, Tensor]
    teacher_after: float | None = None
    own_teacher: nn.Module | None = None
    objective: Objective | None = None

    @property
    def tuned(self) -> str | None:
        """The objective with what its terms chose on validation samples; None where none chooses."""
        return repr(self.objective) if self.objective is not None and self.objective.tunes else None

    @property
    def deployed(self) -> Tapped:
        """The net to be used: the model itself, or what the objective makes of it."""
        return Tapped(self.model if self.objective is None else self.objective.deploy(self.model))


def _numbered(arm: Arm, number: int, what: str) -> Arm:
    """The arm of one of several nets that are trained for it."""
    return replace(arm, name=f"{arm.name}-{number}", title=f"{arm.title}, {what} {number}")


def _after(before: list[Unit], last: Unit) -> Unit:
    """The last unit with what the ones before it left in the logs, and their time."""
    return replace(
        last,
        rows=[row for unit in [*before, last] for row in unit.rows],
        events=[event for unit in [*before, last] for event in unit.events],
        seconds=sum(unit.seconds for unit in [*before, last]),
    )


def scored(objective: Objective, student: nn.Module, teacher: nn.Module) -> tuple[Tapped, Distillation]:
    """A finished student and the losses that its training samples are scored by; trained parts of the terms stand still.

    Terms that are for what a step has written say nothing of the samples of the data; where there are no others, the labels do.
    """
    factors = objective.factors.tolist()
    told = [(coef * own, term) for (coef, term), own in zip(objective.parts, factors, strict=True) if term.drawn is None]
    if len(told) < len(objective.parts):
        objective = Objective(told or [(1.0, CE())])
    guide = as_teacher(teacher) if "teacher" in objective.needs else None
    if guide is not None and objective.teacher_taps:
        guide.tap(objective.teacher_taps)
    return Tapped(student, objective.student_taps), Distillation(objective.eval(), guide)


@dataclass(frozen=True)
class Worker:
    """Trains units into a run's folder.

    Args:
        recipe: Settings.
        parts: What they name, made.
        engine: The machine.
        home: Folder of finished and unfinished units.
        progress: Told of every step.
    """

    recipe: Recipe
    parts: Parts
    engine: Engine
    home: Path
    progress: Progress

    @property
    def teachers(self) -> tuple[Architecture, ...]:
        """The nets that are trained as teachers; none where their weights are given, or where the step makes or trains them."""
        if self._given or self.parts.forgets_teacher or self.parts.learns_beside:
            return ()
        return tuple(self.parts.teacher.members) if isinstance(self.parts.teacher, DeepEnsemble) else (self.parts.teacher,)

    @property
    def _given(self) -> bool:
        """Whether the teacher can teach as it is."""
        return self.parts.teacher_weights is not None or is_given(self.parts.teacher) or self.recipe.teacher_epochs == 0

    def generations(self, arm: Arm) -> int:
        """How many students an arm trains one after the other; one where none could teach the next."""
        return self.recipe.generations if "teacher" in arm.objective().needs else 1

    def units(self, arms: list[Arm]) -> int:
        """Nets that are trained for every seed."""
        return len(self.teachers) + len(self.parts.assistants) + sum(map(self.generations, arms))

    def steps(self, data: Seeded, *, teacher: bool = False) -> int:
        """Optimiser steps of every student, or of the teacher: the same for all arms, whatever rows they train on."""
        epochs = self.recipe.teacher_epochs if teacher else self.recipe.epochs
        rows = data.of_use(labels_only(self.parts.data), data.splits.train) if teacher else data.splits.train
        count = len(rows) + (len(data.splits.query) if self.recipe.query_in_training and not teacher else 0)
        return epochs * max(count // self.recipe.batch_size, 1)

    def teacher(self, data: Seeded) -> Unit:
        """The teacher: trained on the labels as given, each member of an ensemble by itself, or read from a file, or as built."""
        if not self.teachers:
            return self._read_teacher(data)
        arm = Arm(TEACHER, "Teacher", Uniform, Student, lambda: labels_only(self.parts.data))
        if not isinstance(self.parts.teacher, DeepEnsemble):
            return self._unit(arm, data, self.parts.teacher, None, salt=0)
        members = [
            self._unit(_numbered(arm, number, "member"), data, member, None, salt=number * AFRESH)
            for number, member in enumerate(self.teachers, start=1)
        ]
        return self._joined(members, self.parts.teacher, data)

    def assistants(self, data: Seeded, teacher: nn.Module) -> list[Unit]:
        """The nets between teacher and student, each taught by the one before; all arms of the seed share them."""
        found: list[Unit] = []
        for number, net in enumerate(self.parts.assistants, start=1):
            arm, guide = assistant(self.recipe, self.parts, number), found[-1].model if found else teacher
            found.append(self._unit(arm, data, net, guide, salt=(len(self.teachers) + number) * AFRESH))
        return found

    def student(self, arm: Arm, data: Seeded, teacher: nn.Module) -> Unit:
        """One arm's student; all arms of a seed begin with the same weights and see samples in the same order.

        In a chain of generations the one before, with first weights of its own, is the teacher of the next, alone or in a
        mixture with the first teacher.
        """
        before: list[Unit] = []
        guide, mixture = teacher, self.recipe.last_teacher(self.parts)
        for number in range(1, self.generations(arm)):
            own = _numbered(arm, number, "generation")
            before.append(self._unit(own, data, self.parts.student, guide, salt=number * AFRESH + 1))
            model = before[-1].model
            guide = mixture.joined(teacher, model) if isinstance(mixture, Anchored) else model
        unit = self._unit(arm, data, self.parts.student, guide, salt=1)
        if not before:
            return unit
        return replace(_after(before, unit), own_teacher=guide if unit.own_teacher is None else unit.own_teacher)

    def _joined(self, members: list[Unit], ensemble: DeepEnsemble, data: Seeded) -> Unit:
        """The ensemble of trained members, with figures of its own."""
        model = ensemble.joined([member.model for member in members])
        found, validation = (figures_of(Tapped(model), part) for part in (data.test, data.validation))
        written = self._written(data, Tapped(model))
        unit = Unit(model, {**found.named(), **validated(validation), **written}, [], [], 0.0, {})
        return _after(members, unit)

    def _read_teacher(self, data: Seeded) -> Unit:
        torch.manual_seed(data.seed * 2)
        model = given_teacher(self.parts, data.spec)
        if not gives_logits(model) or self.parts.forgets_teacher or not self._given:
            return Unit(model, {}, [], [], 0.0, {})
        written = {} if isinstance(model, Teacher) else self._written(data, Tapped(model))
        return Unit(model, {**figures_of(answering(model), data.test).named(), **written}, [], [], 0.0, {})

    def _unit(self, arm: Arm, data: Seeded, architecture: Architecture, teacher: nn.Module | None, *, salt: int) -> Unit:
        """Train, or take from the folder what an earlier start of the same run has finished."""
        name = f"seed{data.seed}-{arm.name}"
        steps = self.steps(data, teacher=teacher is None)
        self.progress.unit(f"seed {data.seed} · {arm.title}", steps)
        torch.manual_seed(data.seed * 2 + salt)
        model = architecture.build(data.spec)
        if (self.home / f"{name}.json").exists():
            self.progress.advance(steps)
            return self._finished(name, self._distiller(arm, data, model, teacher))
        every = self.recipe.checkpoint_every
        keeper = Keeper(self.home / f"{name}.pt", every, PAUSE_S if every == 0 else 0.0)  # who names a number means it
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always", UserWarning)
            unit = self._train(arm, data, model, teacher, steps, keeper, said)
        if self.engine.rank == 0:
            self._keep(name, unit)
        return unit

    def _train(
        self,
        arm: Arm,
        data: Seeded,
        model: nn.Module,
        teacher: nn.Module | None,
        steps: int,
        keeper: Keeper,
        said: list[warnings.WarningMessage],
    ) -> Unit:
        recipe, spec = self.recipe, self.parts.teacher_optimizer if teacher is None else self.parts.optimizer
        step, began = arm.mixing(arm.step()), time.perf_counter()
        distiller, loader = self._distiller(arm, data, model, teacher)
        labels = {"seed": data.seed, "arm": arm.name}
        validation, average = data.validation.to(self.engine.device), arm.average()
        ending = Ending(average, loader, validation)
        log = Logbook(labels, len(loader), validation, data.clean, said, ending.net)
        tracker = SampleTracker(len(self.parts.data))
        if average is not None:
            average.begin(steps, validation)
        schedule, epochs = self.parts.schedule, recipe.teacher_epochs if teacher is None else recipe.epochs
        fit(
            distiller,
            loader,
            spec.build(distiller.trained()),
            steps=steps,
            queries=data.queries,
            step=step,
            engine=self.engine,
            rate=lambda done, total: schedule.factor(done * epochs / total, epochs),  # the same for all arms
            clip=recipe.clip,
            accumulate=recipe.accumulate,
            seed=data.seed,
            clean=data.clean,
            callbacks=[*([] if average is None else [average]), log, tracker, Advance(self.progress)],
            keeper=keeper,
        )
        ending.bring(distiller)
        log.note(steps, ending.missed)
        return self._unit_of(distiller, data, log, tracker, moved=step.trains_teacher, seconds=time.perf_counter() - began)

    def _distiller(self, arm: Arm, data: Seeded, model: nn.Module, teacher: nn.Module | None) -> tuple[Distiller, Loader]:
        """All parts of an arm's training, put together, with the batches that it trains on."""
        guide = None if teacher is None else as_teacher(deepcopy(teacher), trained=arm.step().trains_teacher)
        weighting, balancer, per = arm.weighting(), arm.balancer(), self.recipe.per
        distiller = Distiller(model, guide, arm.objective(), weighting=weighting, balancer=balancer, per=per)
        rows = torch.cat([data.splits.train, data.splits.query]).sort().values if arm.query_in_training else data.splits.train
        rows = data.of_use(distiller.objective, rows)
        loader = loader_for(self.recipe, self.parts, data, rows, arm.mixture())
        return distiller.build(loader), loader

    def _unit_of(
        self, distiller: Distiller, data: Seeded, log: Logbook, tracker: SampleTracker, *, moved: bool, seconds: float
    ) -> Unit:
        """The finished training as a unit, with its figures on validation and test."""
        test, guide = data.test.to(self.engine.device), distiller.teacher
        kept = distiller.deployed()
        compared = guide if gives_logits(guide) else None
        found, validation = figures_of(kept, test, compared), figures_of(kept, log.validation)
        after = figures_of(guide, test).accuracy if guide is not None and moved else None
        return Unit(
            model=distiller.student.model.cpu(),
            figures={**found.named(), **validated(validation), **self._written(data, kept, compared)},
            rows=log.rows,
            events=log.events,
            seconds=seconds,
            samples={"last": tracker.last, "mean": tracker.mean},
            teacher_after=after,
            own_teacher=guide.tapped.model.cpu() if isinstance(guide, Single) and moved else None,
            objective=distiller.objective.cpu(),
        )

    def _written(self, data: Seeded, model: Tapped, teacher: nn.Module | None = None) -> dict[str, float | None]:
        """Figures of what a model writes behind held-out prompts; none where the recipe asks for none."""
        count, tokens = self.recipe.completions, self.parts.data.tokenizer
        if count == 0 or tokens is None:
            return {}
        test = data.test.to(next(model.parameters()).device)
        return Exam.of(test, count, tokens, data.spec.classes).figures(model, teacher)

    def _keep(self, name: str, unit: Unit) -> None:
        """Write the unit; its JSON file comes last and says that all is there."""
        files.write_model(self.home / f"{name}.safetensors", unit.model)
        if unit.own_teacher is not None:
            files.write_model(self.home / f"{name}-teacher.safetensors", unit.own_teacher)
        if unit.objective is not None and unit.objective.state_dict():
            files.write_model(self.home / f"{name}-objective.safetensors", unit.objective)
        if unit.samples:
            files.write_table(self.home / f"{name}.parquet", {key: part.tolist() for key, part in unit.samples.items()})
        plain = {"figures": unit.figures, "rows": unit.rows, "events": unit.events, "seconds": unit.seconds}
        files.write_json(self.home / f"{name}.json", {**plain, "teacher_after": unit.teacher_after})
        (self.home / f"{name}.pt").unlink(missing_ok=True)

    def _finished(self, name: str, made: tuple[Distiller, Loader]) -> Unit:
        import pyarrow.parquet as pq

        distiller, model = made[0], made[0].student.model
        if distiller.objective.state_dict():
            distiller.objective.load_state_dict(load_file(self.home / f"{name}-objective.safetensors"))
        kept: dict[str, Any] = files.read_json(self.home / f"{name}.json")
        model.load_state_dict(load_file(self.home / f"{name}.safetensors"))
        table = pq.read_table(self.home / f"{name}.parquet")
        samples = {key: torch.tensor(table[key].to_pylist()) for key in table.column_names}
        own = None
        if kept["teacher_after"] is not None:
            assert isinstance(distiller.teacher, Single)
            own = distiller.teacher.tapped.model
            own.load_state_dict(load_file(self.home / f"{name}-teacher.safetensors"))
        plain = (kept["figures"], kept["rows"], kept["events"], kept["seconds"])
        return Unit(model, *plain, samples, kept["teacher_after"], own, distiller.objective)
