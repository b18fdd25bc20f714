"""A batch cut into parts takes the step of the whole batch, whatever the weighting and whoever moves."""

import pytest
import torch
from torch import Tensor
from training_makers import BATCH, distance, half_and_half, net, parts, prepared, train, weighting

from limbeck.core.outputs import Views
from limbeck.influence.curvature.ekfac import EKFAC
from limbeck.influence.vectors import Vector
from limbeck.teachers.single import Single
from limbeck.training.steps.sequential import Sequential
from limbeck.training.steps.simultaneous import Simultaneous
from limbeck.training.steps.student import Student
from limbeck.training.steps.teacher_only import TeacherOnly
from limbeck.training.training import Training, Update
from limbeck.training.weighted import Part, weighted_backward
from limbeck.weighting.controls import OwnLoss, Random, Shuffled
from limbeck.weighting.uniform import Uniform
from limbeck.weighting.weighting import Step, Weighting

WEIGHTINGS = [Uniform, OwnLoss, Random, weighting, lambda: weighting(solver=EKFAC()), lambda: Shuffled(weighting())]


@pytest.mark.parametrize("make", WEIGHTINGS, ids=["uniform", "own_loss", "random", "influence", "ekfac", "shuffled"])
def test_parts_take_the_step_of_the_whole_batch(make: type[Weighting]) -> None:
    whole = train(parts(kind="layernorm", weights=make()))
    pieces = train(parts(kind="layernorm", weights=make()), accumulate=5)  # of 3, 3, 2, 2 and 2 samples
    assert distance(whole.student, pieces.student) < 1e-6
    for one, other in zip(whole.records, pieces.records, strict=True):
        torch.testing.assert_close(one.weights, other.weights, rtol=1e-4, atol=1e-5)
        assert one.loss == pytest.approx(other.loss, rel=1e-5)
        assert one.terms == pytest.approx(other.terms, rel=1e-5)
        assert torch.equal(one.batch.index, other.batch.index)


@pytest.mark.parametrize("cut", [2, 4, 100])
def test_there_are_as_many_parts_as_asked_for_but_never_more_than_samples(cut: int) -> None:
    training, batch = prepared(parts(), Student(), accumulate=cut)
    assert len(weighted_backward(training, batch)[1]) == min(cut, BATCH)
    assert distance(train(parts(), accumulate=cut).student, train(parts()).student) < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("step", [Simultaneous, TeacherOnly, Sequential, lambda: Simultaneous(feedback=1.0)])
def test_the_teacher_moves_alike_too(step: type[Update]) -> None:
    whole = train(parts(weights=weighting(), trained=True), step(), steps=5)
    pieces = train(parts(weights=weighting(), trained=True), step(), accumulate=4, steps=5)
    assert distance(whole.student, pieces.student) < 2e-6
    assert distance(whole.teacher, pieces.teacher) < 1e-6
    assert distance(whole.teacher, Single(net("mlp", seed=2, width=16)).state_dict()) > 1e-4


def test_weights_are_normalised_over_the_whole_batch() -> None:
    made = parts(weights=weighting())
    training, batch = prepared(made, Student(), accumulate=4)
    record, pieces = weighted_backward(training, batch)
    assert len(pieces) == 4
    assert record.weights.shape == (BATCH,)
    assert float(record.weights.mean()) == pytest.approx(1.0, abs=1e-5)
    means = [float(piece.mean()) for piece in record.weights.split(3)]
    assert max(means) - min(means) > 0.05


class Ask(Weighting):
    """Asks for the inner products with one direction, and gives rising weights."""

    def __init__(self, q: Vector) -> None:
        self.q = q
        self.dots: list[Tensor] = []

    def __call__(self, step: Step) -> Tensor:
        self.dots.append(step.dot(self.q))
        return torch.arange(1.0, len(step.losses) + 1)


class ByLabel(Weighting):
    """Weights that go by the labels."""

    def __call__(self, step: Step) -> Tensor:
        assert step.batch.targets is not None
        return 1.0 + step.batch.targets


@pytest.mark.parametrize("cut", [1, 3])
def test_a_weighting_sees_the_samples_with_all_that_they_have(cut: int) -> None:
    training, batch = prepared(parts(weights=ByLabel()), Student(), accumulate=cut)
    record, _ = weighted_backward(training, batch)
    assert torch.equal(record.weights, 1.0 + batch.targets)


def per_sample_gradients(training: Training, pieces: list[Part]) -> Tensor:
    """Every sample's gradient under the masks of its part, [B, P], by one backward pass each."""
    student, rows = training.distiller.student, []
    for piece in pieces:
        torch.set_rng_state(piece.rng)
        for value in half_and_half().per_sample(Views(student(piece.batch), piece.teacher, piece.batch)):
            grads = torch.autograd.grad(value, list(student.parameters()), retain_graph=True)
            rows.append(torch.cat([part.reshape(-1) for part in grads]))
    return torch.stack(rows)


@pytest.mark.parametrize("cut", [1, 3])
def test_with_dropout_scores_and_step_see_the_same_masks(cut: int) -> None:
    """The masks of the parts are not those of the whole batch; what holds is that a score belongs to the loss that is trained."""
    made = parts(kind="dropout", double=True)
    q = {name: torch.randn_like(part) for name, part in made.distiller.student.named_parameters()}
    ask = made.distiller.weighting = Ask(q)
    training, batch = prepared(made, Student(), accumulate=cut)
    record, pieces = weighted_backward(training, batch)
    after = torch.get_rng_state()
    rows = per_sample_gradients(training, pieces)
    along = rows @ torch.cat([part.reshape(-1) for part in q.values()])
    torch.testing.assert_close(ask.dots[0].double(), along, rtol=1e-5, atol=1e-6)
    ours = torch.cat([part.grad.reshape(-1) for part in made.distiller.student.parameters()])
    torch.testing.assert_close(ours, record.weights.double() @ rows / len(batch))
    states = [piece.rng for piece in pieces] + [after]
    assert len({state.numpy().tobytes() for state in states}) == len(states)
