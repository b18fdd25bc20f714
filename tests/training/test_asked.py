"""What is asked of the parts of a fit: another thing in a part's place is one sentence, before any work."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from training_makers import ROWS, blobs, net

from limbeck.core.batch import Batch
from limbeck.core.errors import RunError, ShapeError, UsageError
from limbeck.core.outputs import Views
from limbeck.core.term import Term
from limbeck.data.loader import Loader, whole
from limbeck.distiller import Distiller
from limbeck.influence.curvature.ekfac import EKFAC
from limbeck.losses.labels.ce import CE
from limbeck.losses.logits.kd import KD
from limbeck.models.mlp import MLP
from limbeck.teachers.single import Single
from limbeck.training.asked import UPDATE
from limbeck.training.fit import fit
from limbeck.training.steps.student import Student
from limbeck.training.training import Record, Training, Update
from limbeck.weighting.weighting import Step, Weighting

DATA = blobs()
LOADER = Loader(DATA, torch.arange(ROWS), batch_size=12, seed=0, labels=DATA.labels)
STUDENT = net()
SGD = torch.optim.SGD(STUDENT.parameters(), lr=0.1)


class Own:
    """A step that has forgotten most of what a step has."""

    trains_teacher = False

    def __call__(self, training: Training, batch: Batch) -> Record:
        raise AssertionError


class Gap(Term):
    """Reads the teacher and does not say so."""

    def forward(self, views: Views) -> Tensor:
        return (views.student.logits - views.teacher.logits).square().sum(1)  # type: ignore[union-attr]


class Three(Weighting):
    """Three weights, whatever the batch."""

    def __call__(self, step: Step) -> Tensor:
        return torch.ones(3)


class Unlearning(Weighting):
    """A negative weight in the middle."""

    def __call__(self, step: Step) -> Tensor:
        return torch.linspace(1.0, -0.5, len(step.batch))


@pytest.mark.parametrize(
    "parts, said",
    [
        ((STUDENT, net(), KD()), r"teacher must be a Teacher, got Sequential; wrap a net, teacher=Single\(net\)"),
        ((MLP(), None, CE()), r"net must be a Module, got MLP; build an architecture first"),
        ((STUDENT, None, nn.CrossEntropyLoss()), "objective: it must be a Term, got CrossEntropyLoss"),
        ((STUDENT, None, CE), "objective: it must be a Term, got the class CE"),
        ((STUDENT, None, CE(), EKFAC()), "weighting must be a Weighting, got EKFAC"),
    ],
)
def test_parts_of_a_distiller(parts: tuple[nn.Module, None, Term], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Distiller(*parts[:3], weighting=None if len(parts) == 3 else parts[3])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "options, said",
    [
        ({"loader": DataLoader([1])}, "loader must be a Loader, got DataLoader"),
        ({"optimizer": torch.optim.SGD}, "optimizer must be an Optimizer, got the class SGD"),
        ({"optimizer": torch.optim.SGD(net().parameters(), lr=0.1)}, "optimiser holds nothing that is to be trained"),
        ({"queries": [1, 2]}, "queries must be a Batch, got list"),
        ({"rate": 0.1}, "rate must be a function"),
        ({"callbacks": [print]}, "a callback must be a Callback"),
        ({"step": Student}, "step must be an object, got the class Student"),
        ({"step": Own()}, "the step Own lacks writes, prepare, state, load_state;"),
    ],
)
def test_arguments_of_fit(options: dict[str, object], said: str) -> None:
    given: dict[str, object] = {"loader": LOADER, "optimizer": SGD, **options}
    with pytest.raises(UsageError, match=said):
        fit(Distiller(STUDENT, None, CE()), **given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "student, objective, said",
    [
        (nn.Linear(7, 3), CE(), r"the student cannot take inputs \[2, 5\] of torch.float32 on cpu \(.*look at its first layer"),
        (STUDENT, Gap(), r'Gap\(\) fails where the teacher was not asked .* needs = frozenset\(\{"teacher"\}\)'),
    ],
)
def test_what_fails_on_two_samples_says_who(student: nn.Module, objective: Term, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        fit(Distiller(student, Single(net(seed=2)), objective), LOADER, torch.optim.SGD(student.parameters(), lr=0.1))


def test_a_student_that_is_its_own_teacher_is_frozen() -> None:
    own = net()
    with pytest.raises(UsageError, match=r"all parameters of the student are frozen; .* teach by a copy"):
        fit(Distiller(own, Single(own), KD()), LOADER, torch.optim.SGD(own.parameters(), lr=0.1))


def test_a_weighting_gives_one_weight_per_sample() -> None:
    student = net()
    with pytest.raises(ShapeError, match=r"Three returned \[3\] for 12 samples"):
        fit(Distiller(student, None, CE(), weighting=Three()), LOADER, torch.optim.SGD(student.parameters(), lr=0.1))


def test_weights_are_not_negative() -> None:
    student = net()
    with pytest.raises(RunError, match=r"Unlearning gave a weight of -0\.5 at step 0; weights are numbers of at least 0"):
        fit(Distiller(student, None, CE(), weighting=Unlearning()), LOADER, torch.optim.SGD(student.parameters(), lr=0.1))


def test_all_that_a_step_must_have_is_asked_for() -> None:
    wanted = {name for name in vars(Update) if not name.startswith("_")} | {"__call__", *Update.__annotations__}
    assert set(UPDATE) == wanted


@pytest.mark.parametrize(
    "read, said",
    [
        (lambda: whole(DATA, torch.ones(len(DATA), dtype=torch.bool), DATA.labels), r"rows must be row numbers, .*torch.bool"),
        (lambda: whole(DATA, torch.tensor([0, 99]), DATA.labels), "has no row 99, only 0 to 56"),
        (lambda: whole(DATA, [0, 1], DATA.labels), "rows must be a Tensor, got list"),  # type: ignore[arg-type]
        (lambda: whole([1, 2], torch.arange(2), DATA.labels), r"source must be a Source, got list; .* InMemory"),  # type: ignore[arg-type]
    ],
)
def test_rows_are_numbers_that_the_source_has(read: Callable[[], Batch], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        read()
