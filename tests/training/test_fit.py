"""The loop: clipping, rates, precision, what callbacks see, and runs that go wrong."""

import copy
import math
from collections.abc import Callable

import pytest
import torch
from torch import nn
from training_makers import BATCH, CLASSES, FEATURES, ROWS, Parts, copied, distance, net, parts, same, train, weighting

from limbeck.core.errors import DataError, RunError, ShapeError, UsageError
from limbeck.data.loader import Loader
from limbeck.distiller import Distiller
from limbeck.engine.local import LocalEngine
from limbeck.influence.curvature.diagonal import Diagonal
from limbeck.influence.curvature.ekfac import EKFAC
from limbeck.influence.curvature.identity import Identity
from limbeck.influence.curvature.kfac import KFAC
from limbeck.losses.labels.ce import CE
from limbeck.losses.logits.kd import KD
from limbeck.teachers.single import Single
from limbeck.training.callback import Callback
from limbeck.training.steps.sequential import Sequential
from limbeck.training.steps.simultaneous import Simultaneous
from limbeck.training.steps.student import Student
from limbeck.training.training import Record, Training, Update, of_all
from limbeck.weighting.controls import Oracle, OwnLoss, Random
from limbeck.weighting.influence import InfluenceWeighting
from limbeck.weighting.uniform import Uniform


def test_training_lowers_the_loss() -> None:
    losses = [record.loss for record in train(parts(), epochs=15).records]
    assert sum(losses[-4:]) < 0.9 * sum(losses[:4])


def test_clipping_bounds_the_step() -> None:
    made = parts(momentum=0.0, lr=1.0)
    before = copied(made.distiller.student.state_dict())
    train(made, steps=1, clip=0.01)
    moved = [part - before[name] for name, part in made.distiller.student.state_dict().items()]
    assert float(torch.cat([part.reshape(-1) for part in moved]).norm()) == pytest.approx(0.01, rel=1e-3)


def test_clipping_above_the_gradient_changes_nothing() -> None:
    assert distance(train(parts(), clip=1e6).student, train(parts()).student) < 1e-6


class Rates(Callback):
    def __init__(self) -> None:
        self.seen: list[list[float]] = []

    def after_step(self, training: Training, record: Record) -> None:
        self.seen.append([group["lr"] for group in training.optimizer.param_groups])


def test_the_schedule_is_asked_with_the_steps_taken_and_all_steps() -> None:
    rates = Rates()
    train(parts(lr=0.5), epochs=2, rate=lambda number, total: (number + 1) / total, callbacks=[rates])
    assert [rate for (rate,) in rates.seen] == pytest.approx([0.5 * (number + 1) / 8 for number in range(8)])


def test_a_rate_of_zero_trains_nothing() -> None:
    made = parts()
    before = copied(made.distiller.student.state_dict())
    assert same(train(made, rate=lambda number, total: 0.0).student, before)


def test_every_group_keeps_its_own_rate() -> None:
    made = parts()
    first, *others = made.distiller.student.parameters()
    made.optimizer = torch.optim.SGD([{"params": [first], "lr": 0.2}, {"params": others, "lr": 0.1}])
    rates = Rates()
    train(made, steps=1, rate=lambda number, total: 0.5, callbacks=[rates])
    assert rates.seen == [[0.1, 0.05]]
    assert [group["lr"] for group in made.optimizer.param_groups] == [0.2, 0.1]  # the next fit begins with its own


@pytest.mark.parametrize("weights", [Uniform, weighting, OwnLoss])
def test_bfloat16_stays_close_to_float32(weights: type[Uniform]) -> None:
    plain = train(parts(kind="layernorm", weights=weights()))
    mixed = train(parts(kind="layernorm", weights=weights()), engine=LocalEngine(precision="bf16"))
    assert {part.dtype for part in mixed.student.values()} == {torch.float32}
    assert 0 < distance(plain.student, mixed.student) < 0.03
    for one, other in zip(plain.records, mixed.records, strict=True):
        torch.testing.assert_close(one.weights, other.weights, rtol=0, atol=0.06)
        assert one.loss == pytest.approx(other.loss, rel=0.02)


def test_curvature_and_scores_are_not_rounded_to_bfloat16() -> None:
    """At the first step both runs have the same student, so that the weights differ by the losses' precision alone, which
    influence does not read."""
    plain = train(parts(weights=weighting()), steps=1)
    mixed = train(parts(weights=weighting()), steps=1, engine=LocalEngine(precision="bf16"))
    torch.testing.assert_close(plain.records[0].weights, mixed.records[0].weights, rtol=0, atol=0.01)


def exploding(made: Parts, at: int) -> Parts:
    """The student's output becomes NaN at a step."""
    calls = iter(range(10_000))

    def spoil(module: nn.Module, inputs: object, output: torch.Tensor) -> torch.Tensor:
        return output * math.nan if module.training and next(calls) == at else output

    made.distiller.student.model.register_forward_hook(spoil)
    return made


def test_a_loss_that_is_no_number_ends_the_run_with_one_sentence() -> None:
    with pytest.raises(RunError, match=r"^training: the loss became nan at step 5; .* smaller learning rate") as caught:
        train(exploding(parts(), 5))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("at", [0, 5, 7])
def test_a_gradient_that_is_no_number_never_ends_in_a_finished_run(at: int) -> None:
    """Found at the step or at the next; the last step has no next one."""
    made = parts()
    calls = iter(range(10_000))
    first = next(made.distiller.student.parameters())
    first.register_hook(lambda gradient: gradient * (math.nan if next(calls) == at else 1.0))
    with pytest.raises(RunError, match=rf"^training: .* at step ({at}|{at + 1}); .* smaller learning rate"):
        train(made)


def test_a_student_that_flies_away_is_told_of() -> None:
    with pytest.raises(RunError, match="smaller learning rate"):
        train(parts(lr=1e38, momentum=0.0), epochs=3)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"epochs": 0}, "fit: epochs must be a whole number of at least 1"),
        ({"steps": 0}, "fit: steps"),
        ({"accumulate": 0}, "fit: accumulate"),
        ({"clip": 0.0}, "fit: clip must be above 0"),
        ({"clip": math.nan}, "fit: clip"),
    ],
)
def test_arguments_out_of_range(options: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        train(parts(), **options)


def test_influence_without_queries_is_refused() -> None:
    for queries in (None, parts().queries.take(slice(0, 0))):
        with pytest.raises(DataError, match="the query set is empty"):
            train(parts(weights=weighting()), queries=queries)


def test_the_oracle_without_the_truth_is_refused() -> None:
    with pytest.raises(UsageError, match="needs the true labels"):
        train(parts(weights=Oracle()), clean=None)


def test_teacher_and_student_must_answer_for_the_same_classes() -> None:
    made = parts()
    made.distiller = Distiller(made.distiller.student.model, Single(nn.Linear(FEATURES, CLASSES + 4)), KD())
    with pytest.raises(ShapeError, match="the student answers for 3 classes and the teacher for 7"):
        train(made)


def test_labels_beyond_the_students_classes_are_refused() -> None:
    made = parts()
    made.distiller = Distiller(nn.Linear(FEATURES, 2), None, CE())
    made.optimizer = torch.optim.SGD(made.distiller.trained(), lr=0.1)
    made.loader.labels = made.loader.labels.clamp(min=2)
    with pytest.raises(ShapeError, match="a label is 2, but the student answers for the classes 0 to 1"):
        train(made)


def test_a_term_that_needs_a_teacher_without_one() -> None:
    with pytest.raises(UsageError, match="KD compare with a teacher, but none was given"):
        Distiller(net(), None, KD() + CE())


def test_check_leaves_every_mode_as_it_was() -> None:
    made = parts(kind="batchnorm")
    made.distiller.student.train()
    made.distiller.student.model[1].eval()
    modes = [module.training for module in made.distiller.student.modules()]
    made.distiller.check(next(made.loader.epoch(0)))
    assert [module.training for module in made.distiller.student.modules()] == modes


def test_the_frozen_teacher_does_not_move() -> None:
    made = parts(weights=weighting())
    before = copied(made.distiller.teacher.state_dict())
    ran = train(made)
    assert same(ran.teacher, before)
    assert all(part.grad is None and not part.requires_grad for part in made.distiller.teacher.parameters())


def test_all_that_is_trained_receives_gradient_in_two_steps() -> None:
    made = parts()
    seen: dict[str, float] = {}
    for name, part in made.distiller.named_parameters():
        if part.requires_grad:
            part.register_hook(lambda grad, name=name: seen.__setitem__(name, seen.get(name, 0) + float(grad.abs().sum())))
    train(made, steps=2)
    trained = [name for name, part in made.distiller.named_parameters() if part.requires_grad]
    assert trained
    assert all(seen.get(name, 0) > 0 for name in trained)


def test_epochs_and_steps_agree_and_partial_epochs_end() -> None:
    assert same(train(parts(), epochs=2).student, train(parts(), steps=2 * (ROWS // BATCH)).student)
    assert train(parts(), steps=7).training.number == 7


def test_two_runs_with_the_same_seeds_are_the_same_bits() -> None:
    for make in (Random, weighting, InfluenceWeighting):
        one, other = (train(parts(kind="dropout", weights=make())) for _ in range(2))
        assert same(one.student, other.student)


def test_a_short_last_batch_counts_its_own_samples() -> None:
    made = parts()
    made.loader = Loader(made.loader.source, torch.arange(14), batch_size=12, seed=3, labels=made.loader.labels, drop_last=False)
    records = train(made, epochs=2).records
    assert [len(record.weights) for record in records] == [12, 2, 12, 2]


def test_student_without_teacher_or_labels_loop() -> None:
    """The step is the default one, and it says what it is."""
    made = parts(objective=CE())
    assert repr(Student()) == "Student()"
    assert same(train(made).student, train(copy.deepcopy(parts(objective=CE())), Student()).student)


def test_a_second_fit_begins_with_nothing_of_the_first() -> None:
    """Weights along a direction from another run, or curvature that counts its steps, would be stale."""
    for solver in (Identity, EKFAC, KFAC, Diagonal):
        used, fresh = parts(weights=weighting(solver=solver())), parts(weights=weighting(solver=solver()))
        for made in (used, fresh):
            train(made, epochs=3)
        fresh.distiller.weighting = weighting(solver=solver())
        one, other = train(used), train(fresh)
        assert same(one.student, other.student), solver
        for ours, theirs in zip(one.records, other.records, strict=True):
            assert torch.equal(ours.weights, theirs.weights)


@pytest.mark.parametrize("step", [Student, lambda: Simultaneous(feedback=1.0), Sequential])
def test_frozen_and_unused_parts_stay_as_they_are(step: Callable[[], Update]) -> None:
    made = parts(weights=weighting(solver=EKFAC()), trained=True)
    student = made.distiller.student.model
    student[0].weight.requires_grad_(False)
    student.unused = nn.Linear(2, 2)
    student.forward = lambda inputs: student[2](student[1](student[0](inputs)))
    before = copied(student.state_dict())
    train(made, step())
    for name, part in student.state_dict().items():
        assert torch.equal(part, before[name]) == (name == "0.weight" or name.startswith("unused")), name


class Twins(LocalEngine):
    """Two processes that have the same of everything."""

    processes = 2

    def gather(self, values: torch.Tensor) -> torch.Tensor:
        return torch.cat([values, values])


def test_the_record_of_all_processes_is_of_the_samples_that_were_trained_on() -> None:
    """A step may replay other samples than it was given: weights belong to those, in the order in which they are gathered."""
    made = parts()
    whole_batch = next(iter(made.loader))
    part, replayed = whole_batch.take(slice(0, 6)), whole_batch.take(torch.arange(11, 5, -1))
    plain, other = (
        of_all(Record(seen, 1.0, {"KD": 2.0}, torch.ones(6), weighted={"KD": 3.0}), whole_batch, part, Twins())
        for seen in (part, replayed)
    )
    assert plain.batch is whole_batch
    assert torch.equal(other.batch.index, torch.cat([replayed.index, replayed.index]))
    assert torch.equal(other.batch.inputs, torch.cat([replayed.inputs, replayed.inputs]))
    assert (other.loss, other.terms, other.weighted) == (1.0, {"KD": 2.0}, {"KD": 3.0})
