"""The teacher's gradient through the student's step: the product's way against double backward, a central difference and
a numeric derivative (kd-aif.md, 6.1 and invariants 12 to 14)."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call
from training_makers import Parts, net, parts, prepared, same, train, weighting

from limbeck.core.batch import Batch
from limbeck.core.objective import Objective
from limbeck.core.outputs import Outputs, Views
from limbeck.influence.vectors import flatten
from limbeck.losses.labels.ce import CE
from limbeck.losses.logits.dist import DIST
from limbeck.losses.logits.kd import KD
from limbeck.training.steps.simultaneous import Simultaneous
from limbeck.training.steps.with_teacher import TeacherSide
from limbeck.training.teacher_update import teacher_backward
from limbeck.training.weighted import weighted_backward

RATE = 0.3
OBJECTIVES = [KD(T=2.0) * 0.7 + CE() * 0.3, KD(T=4.0) * 1.0, KD(T=1.0) * 0.5 + KD(T=3.0) * 0.2]
KINDS = ["mlp", "layernorm", "batchnorm", "dropout"]


def made(kind: str = "mlp", objective: Objective = OBJECTIVES[0]) -> Parts:
    return parts(kind=kind, objective=objective, trained=True, double=True, lr=RATE, momentum=0.0)


def some_weights(count: int) -> Tensor:
    return 2 * torch.rand(count, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def gradients(one: Parts, weights: Tensor, feedback: float, cut: int = 1) -> dict[str, Tensor]:
    """What the product leaves in the teacher's parameters."""
    step = Simultaneous(feedback=feedback)
    training, batch = prepared(one, step, accumulate=cut)
    torch.manual_seed(6)
    record, pieces = weighted_backward(training, batch, weights)
    teacher_backward(training, step.model, step.rule, pieces, record.weights, weighted=False)
    found = {name: part.grad.clone() for name, part in step.model.tapped.model.named_parameters()}
    one.distiller.zero_grad(set_to_none=True)
    return found


def products_way(one: Parts, weights: Tensor, cut: int = 1) -> dict[str, Tensor]:
    """The feedback part alone."""
    both, direct = gradients(one, weights, 1.0, cut), gradients(one, weights, 0.0, cut)
    return {name: part - direct[name] for name, part in both.items()}


class Twin:
    """The same mathematics written out with autograd, on plain functions of parameters."""

    def __init__(self, one: Parts, weights: Tensor) -> None:
        self.objective, self.weights, self.queries = one.distiller.objective, weights, one.queries
        self.student, self.teacher = one.distiller.student.model, one.distiller.teacher.tapped.model
        self.batch: Batch = next(one.loader.epoch(0))
        self.own = {name: part.detach() for name, part in self.student.named_parameters()}
        self.taught = {name: part.detach() for name, part in self.teacher.named_parameters()}

    def answer(self, own: dict[str, Tensor], inputs: Tensor) -> Tensor:
        return functional_call(self.student, (own, dict(self.student.named_buffers())), (inputs,))

    def loss(self, own: dict[str, Tensor], taught: dict[str, Tensor]) -> Tensor:
        """The weighted training loss; the same dropout masks each time."""
        torch.manual_seed(6)
        teacher = Outputs(functional_call(self.teacher, taught, (self.batch.inputs,)))
        views = Views(Outputs(self.answer(own, self.batch.inputs)), teacher, self.batch)
        return (self.weights * self.objective.per_sample(views)).mean()

    def ahead(self, taught: dict[str, Tensor]) -> dict[str, Tensor]:
        own = {name: part.clone().requires_grad_() for name, part in self.own.items()}
        grads = torch.autograd.grad(self.loss(own, taught), list(own.values()), create_graph=True)
        return {name: part - RATE * grad for (name, part), grad in zip(own.items(), grads, strict=True)}

    def query_loss(self, own: dict[str, Tensor]) -> Tensor:
        torch.manual_seed(7)
        return F.cross_entropy(self.answer(own, self.queries.inputs), self.queries.targets)

    def double_backward(self) -> dict[str, Tensor]:
        taught = {name: part.clone().requires_grad_() for name, part in self.taught.items()}
        grads = torch.autograd.grad(self.query_loss(self.ahead(taught)), list(taught.values()), allow_unused=True)
        return {
            name: torch.zeros_like(part) if grad is None else grad
            for (name, part), grad in zip(taught.items(), grads, strict=True)
        }

    def central_difference(self) -> dict[str, Tensor]:
        ahead = {name: part.detach().requires_grad_() for name, part in self.ahead(self.taught).items()}
        v = dict(zip(ahead, torch.autograd.grad(self.query_loss(ahead), list(ahead.values())), strict=True))
        e = 0.003 / float(torch.cat([part.reshape(-1) for part in v.values()]).norm())
        slopes = []
        for sign in (1, -1):
            taught = {name: part.clone().requires_grad_() for name, part in self.taught.items()}
            moved = {name: part + sign * e * v[name] for name, part in self.own.items()}
            slopes.append(torch.autograd.grad(self.loss(moved, taught), list(taught.values())))
        return {name: -RATE * (up - down) / (2 * e) for name, up, down in zip(self.taught, *slopes, strict=True)}


def furthest(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    """The largest difference, relative to the largest entry."""
    size = max(float(part.abs().max()) for part in theirs.values())
    assert size > 1e-4
    return max(float((part - theirs[name]).abs().max()) for name, part in ours.items()) / size


@pytest.mark.parametrize("objective", OBJECTIVES, ids=repr)
@pytest.mark.parametrize("kind", ["mlp", "layernorm", "batchnorm"])
def test_feedback_is_double_backward_through_the_step(kind: str, objective: Objective) -> None:
    one, weights = made(kind, objective), some_weights(12)
    assert furthest(products_way(one, weights), Twin(one, weights).double_backward()) < 1e-8


def test_feedback_through_a_loss_that_couples_the_samples() -> None:
    one, weights = made(objective=DIST(T=2.0) * 0.7 + CE() * 0.3), some_weights(12)
    assert furthest(products_way(one, weights), Twin(one, weights).double_backward()) < 1e-8


@pytest.mark.parametrize("kind", ["mlp", "layernorm", "batchnorm"])
def test_feedback_is_a_central_difference(kind: str) -> None:
    one, weights = made(kind), some_weights(12)
    assert furthest(products_way(one, weights), Twin(one, weights).central_difference()) < 1e-4


@pytest.mark.parametrize("kind", ["mlp", "batchnorm"])
def test_the_first_order_comes_near_the_exact_gradient_as_the_step_gets_small(kind: str) -> None:
    """The gap, in shares of the gradient, falls as the student's rate does; feedback is compared without the direct part."""

    def gap(rate: float, feedback: float) -> float:
        found = []
        for order in ("exact", "first"):
            one, step = made(kind), Simultaneous(feedback=feedback, order=order, alpha=1.0)
            training, batch = prepared(one, step)
            training.base_rates, training.number = [rate], 1  # no comparison at step 1
            torch.manual_seed(6)
            weights = some_weights(12)
            _, pieces = weighted_backward(training, batch, weights)
            step.backward(training, pieces, weights, torch.ones_like(weights), weighted=False)
            found.append(flatten(step.gradient()))
        return float((found[0] - found[1]).norm() / found[0].norm())

    for feedback in (0.0, 1e9):
        small, smaller = gap(1e-3, feedback), gap(1e-4, feedback)
        assert 0 < smaller < small < 0.05
        assert small / smaller == pytest.approx(10, rel=0.1)


def test_the_first_order_says_how_far_it_is_from_the_exact_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison is logged when it is due, and leaves no trace: without it the run is the same to the bit."""
    runs = []
    for compare in (3, 10**9):
        monkeypatch.setattr(TeacherSide, "COMPARE", compare)
        one = parts(kind="dropout", weights=weighting(), trained=True)
        runs.append(train(one, Simultaneous(feedback=0.5, order="first")))
    said = [record.figures.get("teacher_agreement") for record in runs[0].records]
    assert [number for number, value in enumerate(said) if value is not None] == [0, 3, 6]
    assert all(0.5 < value <= 1 + 1e-9 for value in said if value is not None)
    assert same(runs[0].student, runs[1].student)
    assert same(runs[0].teacher, runs[1].teacher)


def test_feedback_of_a_cut_batch_is_that_of_the_whole() -> None:
    one, weights = made(), some_weights(12)
    assert furthest(products_way(one, weights, cut=4), products_way(one, weights)) < 1e-12


def test_feedback_is_the_numeric_derivative_of_the_query_loss_after_a_real_step() -> None:
    """One teacher weight is moved, the student takes a real SGD step, and its query loss is looked at."""
    weights, size = some_weights(12), 1e-4
    found = products_way(made(), weights)

    def after(name: str, place: tuple[int, ...], shift: float) -> float:
        one = made()
        with torch.no_grad():
            dict(one.distiller.teacher.tapped.model.named_parameters())[name][place] += shift
        training, batch = prepared(one, Simultaneous())
        weighted_backward(training, batch, weights)
        training.apply()
        with torch.no_grad():
            return float(F.cross_entropy(one.distiller.student.model(one.queries.inputs), one.queries.targets))

    for name, part in found.items():
        place = (0,) * part.dim()
        slope = (after(name, place, size) - after(name, place, -size)) / (2 * size)
        assert float(found[name][place]) == pytest.approx(slope, rel=1e-5, abs=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_a_student_that_does_not_see_the_teacher_gives_it_no_feedback(kind: str) -> None:
    one = made(kind, CE() * 1.0)
    weights = some_weights(12)
    both, direct = gradients(one, weights, 1.0), gradients(one, weights, 0.0)
    assert all(torch.equal(part, direct[name]) for name, part in both.items())


def test_a_coefficient_of_zero_gives_exactly_no_feedback() -> None:
    one = made("mlp", KD(T=2.0) * 0.0 + CE() * 1.0)
    both, direct = gradients(one, some_weights(12), 1.0), gradients(one, some_weights(12), 0.0)
    assert all(torch.equal(part, direct[name]) for name, part in both.items())


def test_the_feedback_factor_is_linear() -> None:
    one, weights = made(), some_weights(12)
    once, twice, direct = (gradients(one, weights, factor) for factor in (1.0, 2.0, 0.0))
    for name, part in direct.items():
        torch.testing.assert_close(twice[name] - part, 2 * (once[name] - part), rtol=1e-9, atol=1e-15)


def test_feedback_lowers_the_query_loss_after_the_students_step() -> None:
    """A teacher moved against its feedback makes the student's next step a better one."""
    one, weights = made(), some_weights(12)
    slope, twin = products_way(one, weights), Twin(one, weights)
    size = sum(float((part**2).sum()) for part in slope.values())
    moved = {name: part - 1e-2 / size**0.5 * slope[name] for name, part in twin.taught.items()}
    gain = twin.query_loss(twin.ahead(twin.taught)) - twin.query_loss(twin.ahead(moved))
    assert float(gain.detach()) == pytest.approx(1e-2 * size**0.5, rel=0.05)


def test_with_hard_pseudo_labels_the_dot_product_is_the_fall_of_the_query_loss() -> None:
    """Invariant 13: (L_val(theta) - L_val(theta')) / (eta h) tends to 1, linearly in eta."""
    student = net("layernorm").double()
    data = parts(double=True)
    batch, queries = next(data.loader.epoch(0)), data.queries
    own = {name: part.detach().clone().requires_grad_() for name, part in student.named_parameters()}

    def slope(at: dict[str, Tensor], what: Batch) -> tuple[Tensor, tuple[Tensor, ...]]:
        value = F.cross_entropy(functional_call(student, at, (what.inputs,)), what.targets)
        return value.detach(), torch.autograd.grad(value, list(at.values()))

    before, _ = slope(own, queries)
    pull = slope(own, batch)[1]
    off = []
    for eta in (0.2, 0.02, 0.002):
        ahead = {
            name: (part - eta * grad).detach().requires_grad_() for (name, part), grad in zip(own.items(), pull, strict=True)
        }
        after, back = slope(ahead, queries)
        h = sum(float((b * p).sum()) for b, p in zip(back, pull, strict=True))
        off.append(abs(float(before - after) / (eta * h) - 1))
    assert off[2] < 0.01
    assert off[1] / off[2] == pytest.approx(10, rel=0.2)
    assert off[0] > off[1] > off[2]
