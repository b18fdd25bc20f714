"""KD-AIF's mechanisms M0 to M4 and the control M3u: which of them is which when a rate or a gain is 0 (kd-aif.md, 14 to 16)."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from training_makers import Parts, copied, distance, parts, prepared, same, train, weighting

from limbeck.core.errors import UsageError
from limbeck.distiller import Distiller
from limbeck.influence.curvature.ekfac import EKFAC
from limbeck.losses.labels.ce import CE
from limbeck.training.steps.sequential import Sequential
from limbeck.training.steps.simultaneous import Simultaneous
from limbeck.training.steps.student import Student
from limbeck.training.steps.teacher_only import TeacherOnly
from limbeck.training.teacher_update import TeacherRule, lookahead, teacher_backward
from limbeck.training.training import Training, Update
from limbeck.training.weighted import look_at, peek_at, weighted_backward
from limbeck.weighting.influence import InfluenceWeighting
from limbeck.weighting.uniform import Uniform

KINDS = ["mlp", "everything"]
MOVING = [TeacherOnly, Simultaneous, Sequential]


def made(kind: str = "mlp", weights: Callable[[], Any] = weighting, **changes: Any) -> Parts:
    return parts(kind=kind, weights=weights(), trained=True, **changes)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("feedback", [1.0, pytest.param(0.0, marks=pytest.mark.slow)])
def test_without_teacher_rate_mechanism_3_is_1_and_2_is_0(kind: str, feedback: float) -> None:
    """Bit for bit, running statistics and all: the lookahead leaves nothing behind."""
    m0, m1 = train(parts(kind=kind, weights=Uniform())), train(parts(kind=kind, weights=weighting()))
    m2 = train(made(kind), TeacherOnly(rate=0.0, feedback=feedback))
    m3 = train(made(kind), Simultaneous(rate=0.0, feedback=feedback))
    assert same(m2.student, m0.student)
    assert same(m3.student, m1.student)
    assert not same(m0.student, m1.student)
    for ours, theirs in ((m2, m0), (m3, m1)):
        assert same(ours.teacher, theirs.teacher)
        assert str(ours.training.optimizer.state_dict()) == str(theirs.training.optimizer.state_dict())


@pytest.mark.parametrize("kind", KINDS)
def test_without_teacher_rate_mechanism_4_is_1(kind: str) -> None:
    """Its weights are made anew against the same teacher."""
    assert same(train(made(kind), Sequential(rate=0.0)).student, train(parts(kind=kind, weights=weighting())).student)


def test_without_teacher_rate_with_ekfac_too() -> None:
    def ekfac() -> InfluenceWeighting:
        return InfluenceWeighting(EKFAC(statistics=3, basis=6), refresh=3, samples=24)

    assert same(
        train(made("dropout", ekfac), Simultaneous(rate=0.0)).student, train(parts(kind="dropout", weights=ekfac())).student
    )


def test_mechanism_3_without_weights_is_its_control() -> None:
    """M3 with all weights 1 is M3u, whoever says that they are 1."""
    control = train(made(), Simultaneous(weighted=False))
    for weights in (Uniform, lambda: weighting(gain=0.0)):
        ran = train(made(weights=weights), Simultaneous())
        assert same(ran.student, control.student)
        assert same(ran.teacher, control.teacher)
    assert all(bool((record.weights == 1).all()) for record in control.records)
    assert not same(train(made(), Simultaneous()).student, control.student)


@pytest.mark.parametrize("step", MOVING)
def test_the_teacher_moves_in_2_3_and_4_and_by_its_rate(step: Callable[..., Update]) -> None:
    start = made().distiller.teacher.state_dict()
    little, much = (distance(train(made(), step(rate=rate), epochs=1).teacher, start) for rate in (0.01, 0.1))
    assert 0 < little < much


@pytest.mark.parametrize("step", MOVING)
def test_the_teacher_is_left_alone_in_mode_and_gradients(step: Callable[..., Update]) -> None:
    ran = train(made(), step())
    teacher = ran.training.distiller.teacher
    assert teacher is not None
    assert not teacher.training
    assert all(part.grad is None for part in ran.training.distiller.parameters())


def test_mechanism_1_needs_no_trained_teacher_and_leaves_it_as_it_is() -> None:
    one = parts(weights=weighting())
    before = copied(one.distiller.teacher.state_dict())
    assert same(train(one, Student()).teacher, before)


@pytest.mark.parametrize("step", MOVING)
def test_a_frozen_or_missing_teacher_is_refused(step: Callable[..., Update]) -> None:
    frozen = parts(weights=weighting(), trained=False)
    missing = parts(weights=weighting(), objective=CE())
    missing.distiller = Distiller(missing.distiller.student.model, None, CE(), weighting=weighting())
    for one in (frozen, missing):
        with pytest.raises(
            UsageError, match=rf"^{step.__name__}: .*frozen or missing; pass teacher=Single\(model, trained=True\)\.$"
        ):
            train(one, step())


@pytest.mark.parametrize("step", MOVING)
def test_feedback_without_queries_is_refused(step: Callable[..., Update]) -> None:
    with pytest.raises(UsageError, match="feedback needs a query set"):
        train(made(weights=Uniform), step(feedback=1.0), queries=None)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rate": -1.0}, "rate"),
        ({"alpha": 1.5}, "alpha"),
        ({"T": 0.0}, "T"),
        ({"feedback": -0.1}, "feedback"),
        ({"order": "second"}, "order"),
    ],
)
def test_settings_out_of_range(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=f"teacher update: {said} must"):
        Simultaneous(**changes)


def test_steps_say_what_they_are() -> None:
    assert repr(Simultaneous(0.2, weighted=False)) == "Simultaneous(rate=0.2, weighted=False)"
    assert repr(Sequential(order="first")) == "Sequential(rate=0.1, order='first')"
    assert [repr(step()) for step in MOVING] == ["TeacherOnly(rate=0.1)", "Simultaneous(rate=0.1)", "Sequential(rate=0.1)"]


@pytest.mark.parametrize("step", [Student, *MOVING])
def test_curvature_is_renewed_whoever_is_weighted(step: Callable[..., Update]) -> None:
    solver = EKFAC(statistics=3, basis=5)
    train(made(weights=lambda: weighting(solver=solver, refresh=1)), step())
    assert solver._updated >= 5
    assert solver._turned >= 5


@pytest.mark.parametrize("step", [Simultaneous, Sequential])
def test_a_weighting_that_was_stopped_no_longer_weighs_the_teacher(step: Callable[..., Update]) -> None:
    def stopped(one: Parts) -> Parts:
        bind = one.distiller.weighting.bind

        def bind_and_stop(setting: Any) -> None:
            bind(setting)
            one.distiller.weighting.guard.tripped = True

        one.distiller.weighting.bind = bind_and_stop
        return one

    ran, plain = train(stopped(made()), step()), train(made(weights=Uniform), step())
    assert same(ran.student, plain.student)
    assert same(ran.teacher, plain.teacher)


def state_of(one: Parts) -> dict[str, torch.Tensor]:
    return copied(one.distiller.state_dict())


@pytest.mark.parametrize("student_first", [True, False])
def test_mechanism_3_does_not_depend_on_the_order_of_the_optimisers(student_first: bool) -> None:
    step, twin = Simultaneous(feedback=0.5), Simultaneous(feedback=0.5)
    one, other = made("batchnorm"), made("batchnorm")
    training, batch = prepared(one, step)
    torch.manual_seed(9)
    step(training, batch)
    training, batch = prepared(other, twin)
    torch.manual_seed(9)
    record, pieces = weighted_backward(training, batch)
    teacher_backward(training, twin.model, twin.rule, pieces, record.weights, weighted=True)
    movers: list[Callable[[], None]] = [training.apply, lambda: twin.step(training)]
    for move in movers if student_first else movers[::-1]:
        move()
    assert same(state_of(one), state_of(other))


def test_mechanism_4_does() -> None:
    """Student first, then teacher, is another algorithm."""

    def student_first(training: Training, step: Sequential) -> None:
        _, pieces = weighted_backward(training, batch)
        training.apply()
        record, pieces = weighted_backward(training, batch)
        teacher_backward(training, step.model, step.rule, pieces, record.weights, weighted=True)
        training.optimizer.zero_grad(set_to_none=True)
        step.step(training)

    one, other, step = made(), made(), Sequential()
    training, batch = prepared(one, step)
    step(training, batch)
    turned = Sequential()
    training, batch = prepared(other, turned)
    student_first(training, turned)
    assert distance(state_of(one), state_of(other)) > 1e-5


def test_mechanism_4_weighs_the_student_against_the_new_teacher() -> None:
    one, step = made(), Sequential(rate=5.0)
    training, batch = prepared(one, step)
    record = step(training, batch)
    first, second = made(), made()
    training, batch = prepared(first, Student())
    before, _ = weighted_backward(training, batch)
    second.distiller.teacher.load_state_dict(one.distiller.teacher.state_dict())
    training, batch = prepared(second, Student())
    after, _ = weighted_backward(training, batch)
    torch.testing.assert_close(record.weights, after.weights)
    assert (record.weights - before.weights).abs().max() > 1e-3


def test_the_lookahead_is_a_plain_step_and_keeps_nothing() -> None:
    one, step = made("batchnorm", momentum=0.0), Simultaneous()
    training, batch = prepared(one, step, rate=lambda number, total: 0.5)
    _, pieces = weighted_backward(training, batch)
    before, random = state_of(one), torch.get_rng_state()
    ahead = lookahead(training)
    losses, _ = look_at(training, pieces, ahead)
    assert same(state_of(one), before)
    assert torch.equal(torch.get_rng_state(), random)
    assert training.optimizer.state_dict()["state"] == {}
    for name, part in one.distiller.student.named_parameters():
        torch.testing.assert_close(ahead[name], part - 0.05 * part.grad, rtol=0, atol=1e-7)
    assert losses.mean() < peek_at(training, pieces).mean()


@pytest.mark.parametrize("alpha", [0.0, 0.4, 1.0])
def test_the_teachers_loss_is_the_formula(alpha: float) -> None:
    one = made()
    batch = next(one.loader.epoch(0))
    generator = torch.Generator().manual_seed(0)
    teacher, student = (torch.randn(len(batch), 3, generator=generator, dtype=torch.float64) for _ in range(2))
    teacher.requires_grad_()
    value = TeacherRule(alpha=alpha, T=2.0).loss(teacher, student.requires_grad_(), batch)
    p, q = (student / 2).softmax(1), (teacher / 2).softmax(1)
    by_hand = (1 - alpha) * -teacher.softmax(1)[range(12), batch.targets].log() + alpha * 4 * (p * (p.log() - q.log())).sum(1)
    torch.testing.assert_close(value, by_hand)
    value.sum().backward()
    hard = teacher.softmax(1) - torch.nn.functional.one_hot(batch.targets, 3)
    torch.testing.assert_close(teacher.grad, ((1 - alpha) * hard + alpha * 2 * (q - p)).detach())
    assert student.grad is None
