"""Small nets, data and runs that the tests of the training side share. Everything follows from the seeds."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.balancing.balancer import Balancer
from limbeck.core.batch import Batch
from limbeck.core.objective import Objective
from limbeck.core.term import Term
from limbeck.data.loader import Loader, whole
from limbeck.data.source import InMemory
from limbeck.distiller import Distiller
from limbeck.influence.curvature.identity import Identity
from limbeck.losses.labels.ce import CE
from limbeck.losses.logits.kd import KD
from limbeck.teachers.single import Single
from limbeck.training.callback import Callback
from limbeck.training.fit import fit
from limbeck.training.training import Record, Training, Update
from limbeck.weighting.controls import Random
from limbeck.weighting.influence import InfluenceWeighting
from limbeck.weighting.weighting import Weighting

FEATURES, CLASSES, ROWS, BATCH = 5, 3, 48, 12
QUERIES = range(ROWS, ROWS + 9)


def blobs(rows: int = ROWS + 9, dtype: torch.dtype = torch.float32) -> InMemory:
    """Three overlapping clouds; every fifth label is wrong."""
    generator = torch.Generator().manual_seed(0)
    truth = torch.arange(rows) % CLASSES
    inputs = torch.randn(rows, FEATURES, generator=generator, dtype=torch.float64)
    inputs[:, :CLASSES] += 1.5 * nn.functional.one_hot(truth, CLASSES)
    labels = torch.where(torch.arange(rows) % 5 == 0, (truth + 1) % CLASSES, truth)
    return InMemory(inputs.to(dtype), labels, classes=("a", "b", "c"), truth=truth, name="Blobs()")


def net(kind: str = "mlp", seed: int = 1, width: int = 8) -> nn.Module:
    """A small student: `mlp`, or with `dropout`, `batchnorm`, `layernorm` or `everything` after its first layer."""
    torch.manual_seed(seed)
    extra: dict[str, list[nn.Module]] = {
        "mlp": [],
        "dropout": [nn.Dropout(0.4)],
        "batchnorm": [nn.BatchNorm1d(width)],
        "layernorm": [nn.LayerNorm(width)],
        "everything": [nn.BatchNorm1d(width), nn.LayerNorm(width), nn.Dropout(0.4)],
    }
    return nn.Sequential(nn.Linear(FEATURES, width), *extra[kind], nn.Tanh(), nn.Linear(width, CLASSES))


def weighting(**changes: Any) -> InfluenceWeighting:
    """Influence weights that are renewed often enough for a short run to see it."""
    return InfluenceWeighting(**{"solver": Identity(), "refresh": 3, "samples": 24, **changes})


def half_and_half() -> Objective:
    return KD(T=2.0) * 0.5 + CE() * 0.5


@dataclass
class Ran:
    """A finished run: what it trained, and what each step left behind."""

    training: Training
    records: list[Record]

    @property
    def student(self) -> dict[str, Tensor]:
        return self.training.distiller.student.state_dict()

    @property
    def teacher(self) -> dict[str, Tensor]:
        assert self.training.distiller.teacher is not None
        return self.training.distiller.teacher.state_dict()


class Records(Callback):
    """Keeps every step's record. Its state is how many it saw."""

    def __init__(self) -> None:
        self.seen: list[Record] = []

    def after_step(self, training: Training, record: Record) -> None:
        self.seen.append(record)


@dataclass
class Parts:
    """All that a run is made of, before it runs."""

    distiller: Distiller
    loader: Loader
    optimizer: torch.optim.Optimizer
    queries: Batch
    clean: Tensor


def parts(
    *,
    kind: str = "mlp",
    weights: Weighting | None = None,
    objective: Term | Objective | None = None,
    balancer: Balancer | None = None,
    trained: bool = False,
    double: bool = False,
    batch: int = BATCH,
    lr: float = 0.1,
    momentum: float = 0.9,
) -> Parts:
    source = blobs(dtype=torch.float64 if double else torch.float32)
    student, teacher = net(kind), net("mlp", seed=2, width=16)
    if double:
        student, teacher = student.double(), teacher.double()
    distiller = Distiller(
        student,
        Single(teacher, trained=trained),
        half_and_half() if objective is None else objective,
        weighting=weights,
        balancer=balancer,
    )
    loader = Loader(source, torch.arange(ROWS), batch_size=batch, seed=3, labels=source.labels)
    optimizer = torch.optim.SGD(distiller.build(loader).trained(), lr=lr, momentum=momentum)
    assert source.truth is not None
    queries = whole(source, torch.tensor(QUERIES), source.truth)
    return Parts(distiller, loader, optimizer, queries, source.labels == source.truth)


def train(made: Parts, step: Update | None = None, *, callbacks: Sequence[Callback] = (), **options: Any) -> Ran:
    """Run `fit`; the global random state is seeded first, as a run's units do it."""
    torch.manual_seed(4)
    records = Records()
    options = {"epochs": 2, "queries": made.queries, "clean": made.clean, "seed": 5, **options}
    training = fit(made.distiller, made.loader, made.optimizer, step=step, callbacks=[records, *callbacks], **options)
    return Ran(training, records.seen)


def prepared(made: Parts, step: Update, **options: Any) -> tuple[Training, Batch]:
    """A run stopped before its first step, and the batch of that step."""
    from limbeck.engine.local import LocalEngine
    from limbeck.training.setting import setting_of

    engine = LocalEngine()
    steps = 3 * len(made.loader)
    rate = options.pop("rate", lambda number, total: 1.0)
    training = Training(
        made.distiller,
        engine.prepare(made.distiller.student),
        made.optimizer,
        engine,
        rate,
        steps,
        queries=made.queries,
        **options,
    )
    made.distiller.weighting.bind(setting_of(training, made.loader, 5, made.clean, teacher_moves=step.trains_teacher))
    made.distiller.student.train()
    step.prepare(training, made.loader, resumed=False)
    return training, next(made.loader.epoch(0))


def same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    """Whether two states hold the same bits."""
    return ours.keys() == theirs.keys() and all(torch.equal(part, theirs[name]) for name, part in ours.items())


def distance(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    """The largest difference between two states."""
    assert ours.keys() == theirs.keys()
    return max(float((part.double() - theirs[name].double()).abs().max()) for name, part in ours.items())


def copied(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: part.clone() for name, part in state.items()}


def random_weights() -> Random:
    return Random()
