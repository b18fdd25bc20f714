"""One unit of a run: one net trained on one seed, from its data to its figures. Finished units are kept for resuming."""

import time
import warnings
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from limbeck.align.taps import Tapped
from limbeck.core.batch import Batch
from limbeck.core.errors import UsageError
from limbeck.core.objective import Objective
from limbeck.data.loader import Loader, whole
from limbeck.data.splits import Splits, split
from limbeck.distiller import Distiller
from limbeck.engine.engine import Engine
from limbeck.experiment import folder as files
from limbeck.experiment.arms import Arm, labels_only
from limbeck.experiment.logbook import Advance, Logbook, SampleTracker, answers, figures_of
from limbeck.experiment.progress import Progress
from limbeck.experiment.recipe import Parts, Recipe
from limbeck.influence.task import Distillation
from limbeck.models.spec import Architecture, DataSpec
from limbeck.teachers.single import Single
from limbeck.training.checkpoint import Keeper
from limbeck.training.fit import fit
from limbeck.training.steps.student import Student

TEACHER = "teacher"
PAUSE_S = 5.0
"""Least time between two checkpoints where the recipe does not say how often, in seconds."""


@dataclass(frozen=True)
class Seeded:
    """All that the arms of one seed share.

    Args:
        seed: The seed.
        splits: Rows of the source.
        labels: int64 [N] what is trained on: the labels as given, with the true ones on the query rows.
        queries: The query set with trusted labels.
        validation: What choices are made on.
        test: What figures are taken on, once.
        clean: bool [N], true where the trained label is right; None where nobody knows.
        spec: What nets must know of the data.
    """

    seed: int
    splits: Splits
    labels: Tensor
    queries: Batch
    validation: Batch
    test: Batch
    clean: Tensor | None
    spec: DataSpec


def seeded(recipe: Recipe, parts: Parts, seed: int) -> Seeded:
    """Cut the data for one seed. Query, validation and test carry true labels where they are known."""
    source = parts.data
    splits = split(source, seed=seed, query=recipe.query, validation=recipe.validation, test=recipe.test, test_seed=recipe.seed)
    trusted = source.labels if source.truth is None else source.truth
    labels = source.labels.clone()
    labels[splits.query] = trusted[splits.query]
    return Seeded(
        seed=seed,
        splits=splits,
        labels=labels,
        queries=whole(source, splits.query, trusted),
        validation=whole(source, splits.validation, trusted),
        test=whole(source, splits.test, trusted),
        clean=None if source.truth is None else labels == source.truth,
        spec=DataSpec(source.kind, tuple(source.input_shape), len(source.classes), source.vocabulary),
    )


def given_teacher(parts: Parts, spec: DataSpec) -> nn.Module:
    """The teacher with the weights that the recipe names.

    Raises:
        UsageError: The file is no safetensors file, does not fit the teacher, or holds NaN.
    """
    model, path = parts.teacher.build(spec), parts.teacher_weights
    assert path is not None
    try:
        model.load_state_dict(load_file(path))
    except Exception as error:
        why = str(error).strip().splitlines()[:2][-1].strip().rstrip(".")
        raise UsageError(f"teacher_weights: {path} does not fit {parts.teacher!r} for {spec.classes} classes ({why}).") from error
    if not all(bool(torch.isfinite(part).all()) for part in model.state_dict().values()):
        raise UsageError(f"teacher_weights: {path} holds NaN or infinite numbers; train the teacher anew.")
    return model


def loader_for(recipe: Recipe, parts: Parts, data: Seeded, rows: Tensor) -> Loader:
    """Training batches of these rows, in the order that all arms of the seed share."""
    return Loader(parts.data, rows, batch_size=recipe.batch_size, seed=data.seed, labels=data.labels, transform=parts.transform)


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
        own_teacher: That teacher; None where the step leaves the seed's teacher as it is.
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
    def deployed(self) -> Tapped:
        """The net to be used: the model itself, or what the objective makes of it."""
        return Tapped(self.model if self.objective is None else self.objective.deploy(self.model))


def scored(objective: Objective, student: nn.Module, teacher: nn.Module) -> tuple[Tapped, Distillation]:
    """A finished student and the losses that its training samples are scored by; trained parts of the terms stand still."""
    guide = Single(teacher) if "teacher" in objective.needs else None
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

    def steps(self, data: Seeded, *, teacher: bool = False) -> int:
        """Optimiser steps of every student, or of the teacher: the same for all arms, whatever rows they train on."""
        epochs = self.recipe.teacher_epochs if teacher else self.recipe.epochs
        rows = len(data.splits.train) + (len(data.splits.query) if self.recipe.query_in_training and not teacher else 0)
        return epochs * max(rows // self.recipe.batch_size, 1)

    def teacher(self, data: Seeded) -> Unit:
        """The teacher: trained on the labels as given, or read from the file that the recipe names."""
        if self.parts.teacher_weights is not None:
            return self._read_teacher(data)
        arm = Arm(TEACHER, "Teacher", lambda: Distiller(nn.Identity(), None, labels_only()).weighting, Student, labels_only)
        return self._unit(arm, data, self.parts.teacher, None, salt=0)

    def student(self, arm: Arm, data: Seeded, teacher: nn.Module) -> Unit:
        """One arm's student; all arms of a seed begin with the same weights and see samples in the same order."""
        return self._unit(arm, data, self.parts.student, teacher, salt=1)

    def _read_teacher(self, data: Seeded) -> Unit:
        model = given_teacher(self.parts, data.spec)
        found = figures_of(Tapped(model), data.test)
        return Unit(model, asdict(found), [], [], 0.0, {})

    def _unit(self, arm: Arm, data: Seeded, architecture: Architecture, teacher: nn.Module | None, *, salt: int) -> Unit:
        """Train, or take from the folder what an earlier start of the same run has finished."""
        name = f"seed{data.seed}-{arm.name}"
        steps = self.steps(data, teacher=arm.name == TEACHER)
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
        recipe, spec = self.recipe, self.parts.optimizer if arm.name != TEACHER else self.parts.teacher_optimizer
        step, began = arm.step(), time.perf_counter()
        distiller, loader = self._distiller(arm, data, model, teacher)
        labels = {"seed": data.seed, "arm": arm.name}
        log = Logbook(labels, len(loader), data.validation.to(self.engine.device), data.clean, said)
        tracker = SampleTracker(len(self.parts.data))
        schedule, epochs = self.parts.schedule, recipe.teacher_epochs if arm.name == TEACHER else recipe.epochs
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
            callbacks=[log, tracker, Advance(self.progress)],
            keeper=keeper,
        )
        return self._unit_of(distiller, data, log, tracker, moved=step.trains_teacher, seconds=time.perf_counter() - began)

    def _distiller(self, arm: Arm, data: Seeded, model: nn.Module, teacher: nn.Module | None) -> tuple[Distiller, Loader]:
        """All parts of an arm's training, put together, with the batches that it trains on."""
        guide = None if teacher is None else Single(deepcopy(teacher), trained=arm.step().trains_teacher)
        distiller = Distiller(model, guide, arm.objective(), weighting=arm.weighting(), balancer=arm.balancer())
        rows = torch.cat([data.splits.train, data.splits.query]).sort().values if arm.query_in_training else data.splits.train
        loader = loader_for(self.recipe, self.parts, data, rows)
        return distiller.build(loader), loader

    def _unit_of(
        self, distiller: Distiller, data: Seeded, log: Logbook, tracker: SampleTracker, *, moved: bool, seconds: float
    ) -> Unit:
        """The finished training as a unit, with its figures on validation and test."""
        test, guide = data.test.to(self.engine.device), distiller.teacher
        kept = distiller.deployed()
        found = figures_of(kept, test, None if guide is None else answers(guide, test))
        validation = figures_of(kept, log.validation).accuracy
        after = figures_of(guide, test).accuracy if guide is not None and moved else None
        return Unit(
            model=distiller.student.model.cpu(),
            figures={**asdict(found), "validation_accuracy": validation},
            rows=log.rows,
            events=log.events,
            seconds=seconds,
            samples={"last": tracker.last, "mean": tracker.mean},
            teacher_after=after,
            own_teacher=guide.tapped.model.cpu() if isinstance(guide, Single) and moved else None,
            objective=distiller.objective.cpu(),
        )

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
