"""Dynamic lambda: the invariants of the method sheet, against brute force on quadratics and in whole runs.

Over 300 lines: one method's invariants, as its sheet lists them.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from training_makers import parts, same, train

from limbeck.balancing.dynamic_lambda import DynamicLambda, Form, angle, closest, products, smallest, target, unharmed
from limbeck.balancing.static import Static
from limbeck.core.batch import Batch
from limbeck.core.errors import UsageError
from limbeck.core.objective import Objective
from limbeck.core.outputs import Views
from limbeck.distiller import Distiller
from limbeck.losses.labels.ce import CE
from limbeck.losses.logits.kd import KD
from limbeck.teachers.single import Single
from support.makers import labels, normal, take, views

FORMS = ["A", "B"]
REFERENCES = ["task", "mix", "val"]


def gram(*rows: Tensor) -> Tensor:
    stacked = torch.stack(rows)
    return stacked @ stacked.T


def along(form: Form, a: Tensor, b: Tensor) -> Tensor:
    """e."""
    return b if form == "A" else b - a


def judge(form: Form, reference: str, mu: float, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """The gradient of the reference loss."""
    mixed = a + mu * b if form == "A" else (1 - mu) * a + mu * b
    return {"task": a, "mix": mixed, "val": c}[reference]


@dataclass
class Quadratic:
    """(x - m)^T K (x - m) / 2."""

    middle: Tensor
    curvature: Tensor

    def __call__(self, x: Tensor) -> float:
        return float((x - self.middle) @ self.curvature @ (x - self.middle) / 2)

    def slope(self, x: Tensor) -> Tensor:
        return self.curvature @ (x - self.middle)


def second_order(a: Tensor, e: Tensor, c: Tensor, curvature: Tensor, eta: float) -> float:
    """Section 3 of the sheet: the lambda of the largest second-order decrease of the reference loss."""
    return float((c @ e - eta * a @ curvature @ e) / (eta * e @ curvature @ e))


def secant(loss: Callable[[Tensor], float], x: Tensor, a: Tensor, e: Tensor, eta: float) -> float:
    """The vertex of the parabola through the reference loss after steps with lambda 0, 1 and 2: the slow oracle."""
    at = [loss(x - eta * (a + lam * e)) for lam in (0.0, 1.0, 2.0)]
    rise, bend = (4 * at[1] - 3 * at[0] - at[2]) / 2, (at[0] - 2 * at[1] + at[2]) / 2
    return -rise / (2 * bend)


def spd(size: int, seed: int) -> Tensor:
    root = normal(size, size, seed=seed)
    return root @ root.T / size + 0.5 * torch.eye(size, dtype=torch.float64)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("reference", REFERENCES)
@pytest.mark.parametrize("seed", range(3))
def test_the_oracles_find_the_best_step_on_any_quadratic(form: Form, reference: str, seed: int) -> None:
    task, distil, held_out = (Quadratic(normal(6, seed=10 * seed + i), spd(6, 20 * seed + i)) for i in range(3))
    x, eta, mu = normal(6, seed=99 + seed), 0.3, 0.4
    a, b, c = task.slope(x), distil.slope(x), held_out.slope(x)
    shares = {"task": (1.0, 0.0, 0.0), "mix": (1.0 if form == "A" else 1 - mu, mu, 0.0), "val": (0.0, 0.0, 1.0)}[reference]
    e = along(form, a, b)

    def loss(at: Tensor) -> float:
        return sum(share * part(at) for share, part in zip(shares, (task, distil, held_out), strict=True))

    bent = sum(s * p.curvature for s, p in zip(shares, (task, distil, held_out), strict=True))
    found = second_order(a, e, judge(form, reference, mu, a, b, c), torch.as_tensor(bent), eta)
    grid = found + torch.linspace(-1, 1, 401, dtype=torch.float64)  # a step of 0.005, with the answer on it
    assert int(torch.tensor([loss(x - eta * (a + lam * e)) for lam in grid]).argmin()) == 200
    assert secant(loss, x, a, e, eta) == pytest.approx(found, abs=1e-8)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("reference", REFERENCES)
@pytest.mark.parametrize("kappa", [0.25, 0.5, 1.0])
def test_closest_is_the_second_order_rule_for_equal_curvature(form: Form, reference: Any, kappa: float) -> None:
    a, b, c = normal(3, 7, seed=5)
    e, bent = along(form, a, b), 2.5
    found = closest(products(gram(a, b, c), form, reference, mu=0.3), kappa)
    wanted = second_order(a, e, judge(form, reference, 0.3, a, b, c), bent * torch.eye(7, dtype=torch.float64), kappa / bent)
    assert found == pytest.approx(wanted, abs=1e-12)
    aim = judge(form, reference, 0.3, a, b, c) / kappa
    far = [float((a + lam * e - aim).norm()) for lam in (found, found - 1e-3, found + 1e-3)]
    assert far[0] == min(far)


def test_closest_by_hand() -> None:
    """|a|^2 = 4, |b|^2 = 1, a.b = 1, kappa = 1/2, worked out from the table of the sheet's section 4."""
    gramian = torch.tensor([[4.0, 1.0], [1.0, 1.0]], dtype=torch.float64)
    # A, task: the projection coefficient (|a| / |b|) cos = 2 * 1/2 = 1. A, mix: mu / kappa + a.b / |b|^2 = 1 + 1.
    assert closest(products(gramian, "A", "task", 0.5), 0.5) == pytest.approx(1.0)
    assert closest(products(gramian, "A", "mix", 0.5), 0.5) == pytest.approx(2.0)
    # B: |d|^2 = 4 - 2 + 1 = 3 and a.d = 1 - 4 = -3, so task: -1. c.d = (1 - mu)(1 - 4) + mu (1 - 1) = -1.5, so mix: 0.5 - 0.5.
    assert closest(products(gramian, "B", "task", 0.5), 0.5) == pytest.approx(-1.0)
    assert closest(products(gramian, "B", "mix", 0.5), 0.5) == pytest.approx(0.0)


def test_smallest_is_the_least_total_reduction() -> None:
    a, b = normal(2, 7, seed=1)
    p = products(gram(a, b), "A", "task", 0.5)
    lam = smallest(p)
    cos = float(a @ b / (a.norm() * b.norm()))
    assert lam == pytest.approx(float(-a.norm() / b.norm() * cos), abs=1e-12)
    assert p.reduction(lam) == pytest.approx(float(a @ a) * (1 - cos**2), abs=1e-10)


def test_smallest_in_form_b_is_the_minimum_norm_point() -> None:
    a, b = normal(2, 7, seed=2)
    u = a + smallest(products(gram(a, b), "B", "task", 0.5)) * (b - a)
    assert_close(torch.stack([u @ a, u @ b]), torch.stack([u @ u, u @ u]), rtol=0, atol=1e-10)


@pytest.mark.parametrize("reference", ["task", "val"])
def test_scale_laws_of_form_a(reference: Any) -> None:
    a, b, c = normal(3, 7, seed=3)
    plain = closest(products(gram(a, b, c), "A", reference, 0.5), 0.5)
    assert closest(products(gram(a, 10 * b, c), "A", reference, 0.5), 0.5) == pytest.approx(plain / 10)
    if reference == "task":
        assert closest(products(gram(10 * a, b, c), "A", "task", 0.5), 0.5) == pytest.approx(10 * plain)


@pytest.mark.parametrize("form", FORMS)
def test_mix_with_kappa_1_is_mu_exactly(form: Form) -> None:
    for seed in range(20):
        a, b = normal(2, 5, seed=seed)
        assert closest(products(gram(a, 1e4 * b), form, "mix", 0.37), 1.0) == 0.37


def test_orthogonal_gradients_ask_for_no_distillation() -> None:
    gramian = torch.tensor([[2.0, 0.0], [0.0, 3.0]], dtype=torch.float64)
    assert closest(products(gramian, "A", "task", 0.5), 0.5) == 0


def test_opposite_gradients() -> None:
    task, x = Quadratic(torch.zeros(4, dtype=torch.float64), spd(4, 0)), normal(4, seed=8)
    a = task.slope(x)
    p = products(gram(a, -3 * a), "A", "task", 0.5)
    assert closest(p, 0.5) < 0
    lam, guard = balancer(form="A", reference="task", lo=0.0).choose(p)
    assert (lam, guard) == (0.0, 3)
    assert task(x - 0.01 * (a + lam * -3 * a)) < task(x)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("theta", [0.0, 0.1, 0.5])
def test_no_harm_keeps_the_task_loss_falling(form: Form, theta: float) -> None:
    acted = 0
    for seed in range(30):
        a, b = normal(2, 3, seed=seed)
        e = along(form, a, b)
        lam = unharmed(products(gram(a, b), form, "mix", 0.5), 5.0, theta)
        assert float(a @ (a + lam * e)) >= theta * float(a @ a) - 1e-12 or float(a @ e) >= 0
        acted += lam < 5
    assert acted > 5


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("rho", [1.0, 1.5, 3.0])
def test_target_gives_the_reduction_that_was_asked_for(form: Form, rho: float) -> None:
    a, b = normal(2, 6, seed=4)
    p = products(gram(a, b), form, "mix", 0.5)
    lam = target(p, rho, 0.5)
    assert p.reduction(lam) == pytest.approx(rho * p.reduction(0.5), rel=1e-10)
    assert lam >= smallest(p)


def test_a_target_that_cannot_be_met_gives_the_least() -> None:
    p = products(gram(*normal(2, 6, seed=4)), "A", "mix", 0.5)
    assert target(p, 1e-9, 0.5) == smallest(p)


@pytest.mark.parametrize("form", FORMS)
def test_angle_equals_a_search(form: Form) -> None:
    grid = torch.linspace(0, 1 if form == "B" else 8, 8001, dtype=torch.float64)
    inside = 0
    for seed in range(40):
        a, b, c = normal(3, 3, seed=seed)
        found = angle(products(gram(a, b, c), form, "val", 0.5), form, 0.0, float(grid[-1]))
        steps = a + grid.unsqueeze(1) * along(form, a, b)
        cosines = steps @ c / steps.norm(dim=1)
        best = float(grid[cosines.argmax()])
        assert min(found, float(grid[-1])) == pytest.approx(best, abs=1.1e-3)
        inside += 0 < best < float(grid[-1])
    assert inside > 5


def objective() -> Objective:
    return KD(T=2.0) + CE()


def balancer(**changes: Any) -> DynamicLambda:
    made = DynamicLambda(**changes)
    made.start(objective())
    return made


LOSSES = torch.ones(2)


def test_equal_gradients_keep_lambda() -> None:
    a = normal(5, seed=0)
    ours = balancer(mu=0.3)
    factors = ours.factors(LOSSES, gram(a, a))
    assert factors.tolist() == [0.3, 0.7]
    assert ours.figures()["lambda_guard"] == 1


def test_averages_are_of_inner_products_and_corrected_for_their_start() -> None:
    grams = [gram(*normal(2, 4, seed=seed)) for seed in range(3)]
    ours = balancer(ema=0.5, lo=0.0, hi=1.0)
    for one in grams:
        last = ours.factors(LOSSES, one)
    # weights 0.5 * (0.25, 0.5, 1), which sum up to 0.875; KD is the first term
    mean = torch.stack([w * g for w, g in zip((0.125, 0.25, 0.5), grams, strict=True)]).sum(0) / 0.875
    p = products(mean.flip(0, 1), "B", "mix", 0.5)
    assert float(last[0]) == pytest.approx(min(max(closest(p, 0.5), 0), 1))


def test_several_terms_on_a_side_are_added_up() -> None:
    g = normal(3, 6, seed=6)
    many, two = DynamicLambda(lo=0.0, hi=1.0), balancer(lo=0.0, hi=1.0)
    many.start(KD() + CE() + KD(T=2.0))
    of_many, of_two = many.factors(torch.ones(3), gram(*g)), two.factors(LOSSES, gram(g[0] + g[2], g[1]))
    assert_close(of_many, of_two[[0, 1, 0]])


def test_without_gradients_or_with_infinite_ones_lambda_stays() -> None:
    ours = balancer(mu=0.3)
    for gramian in (None, torch.full((2, 2), math.inf, dtype=torch.float64), torch.full((2, 2), math.nan, dtype=torch.float64)):
        assert ours.factors(LOSSES, gramian).tolist() == [0.3, 0.7]
    assert ours.count == 0


def distiller(of: DynamicLambda | Static, student: torch.nn.Module, teacher: torch.nn.Module) -> Distiller:
    return Distiller(student, Single(teacher), objective(), balancer=of)


@pytest.mark.parametrize("level, deep", [("logits", False), ("last_layer", False), ("last_layer", True), ("all", False)])
def test_inner_products_at_every_level(level: Any, deep: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """In closed form, from the gradients at the logits and the features; for a linear model the last layer is all."""
    torch.manual_seed(0)
    below = torch.nn.Sequential(*([torch.nn.Linear(4, 7), torch.nn.Tanh()] if deep else [])).double()
    student, teacher = torch.nn.Sequential(*below, torch.nn.Linear(7 if deep else 4, 5)).double(), torch.nn.Linear(4, 5).double()
    ours = DynamicLambda(level=level)
    targets = labels(6, classes=5)
    batch = Batch(normal(6, 4, seed=3), targets, torch.arange(6))
    made = distiller(ours, student, teacher)
    made(batch)
    assert ours.figures() != {}
    weights = torch.tensor([1.0, 0.0, 2.0, 0.5, 1.0, 1.0], dtype=torch.float64)
    s, t = student(batch.inputs), teacher(batch.inputs)
    g_t = (s.softmax(1) - torch.nn.functional.one_hot(targets, 5)) * weights.unsqueeze(1) / 6
    g_d = 2 * ((s / 2).softmax(1) - (t / 2).softmax(1)) * weights.unsqueeze(1) / 6
    h = torch.cat([below(batch.inputs), torch.ones(6, 1)], 1)
    wanted = gram(*(g.flatten() if level == "logits" else (g.T @ h).flatten() for g in (g_d, g_t)))
    both = Views(made.student(batch), made.teach(batch), batch)
    given: list[Tensor] = []
    monkeypatch.setattr(ours, "factors", lambda _, gramian: given.append(gramian) or torch.ones(2))
    made.loss(both, weights)
    assert_close(given[0], wanted.detach(), rtol=0, atol=1e-10)


def test_samples_of_weight_0_and_the_order_of_the_batch_do_not_count() -> None:
    ran, weights = [], torch.tensor([1.0, 0.0, 2.0, 1.0, 1.0, 1.0])
    for order in (torch.arange(6), torch.tensor([5, 2, 0, 1, 4, 3])):
        student = normal(6, 5, seed=1)
        student[1] = normal(5, seed=len(ran) + 7)  # the sample of weight 0 is another one each time
        both = take(views(student.requires_grad_(), normal(6, 5, seed=2), labels(6, classes=5)), order)
        ours = DynamicLambda(level="logits", kappa=0.9)
        made = distiller(ours, torch.nn.Linear(2, 5), torch.nn.Linear(2, 5))
        made.loss(both, weights[order])
        ran.append(ours.lmbda)
    assert ran[0] == pytest.approx(ran[1], abs=1e-12)
    assert ran[0] not in (0.5, 0.05, 0.95)


def run(of: Any, objective: Objective, **options: Any) -> Any:
    return train(parts(objective=objective, balancer=of), **options)


@pytest.mark.parametrize("mu", [0.5, 0.9])
def test_with_equal_bounds_it_is_a_fixed_lambda_bit_for_bit(mu: float) -> None:
    fixed = run(None, KD(T=2.0) * mu + CE() * (1 - mu))
    ours = run(DynamicLambda(mu=mu, lo=mu, hi=mu), objective())
    assert same(ours.student, fixed.student)


def test_lambda_moves_is_logged_and_carries_no_gradient() -> None:
    ran = run(DynamicLambda(), objective())
    seen = [record.figures["lambda"] for record in ran.records]
    assert len(set(seen)) > 4
    assert all(0.05 <= lam <= 0.95 for lam in seen)
    assert {"task_gradient", "distillation_gradient", "gradient_cosine", "lambda_guard"} <= ran.records[0].figures.keys()
    assert not ran.training.distiller.objective.factors.requires_grad


@pytest.mark.parametrize("rule", ["closest", "angle"])
def test_it_may_judge_by_queries(rule: Any) -> None:
    ran = run(DynamicLambda(reference="val", rule=rule), objective())
    assert len({record.figures["lambda"] for record in ran.records}) > 1
    with pytest.raises(UsageError, match="needs a query set"):
        run(DynamicLambda(reference="val"), objective(), queries=None)


def test_state_goes_on() -> None:
    grams = [gram(*normal(2, 4, seed=seed)) for seed in range(6)]
    whole, first, second = balancer(), balancer(), balancer()
    for one in grams:
        wanted = whole.factors(LOSSES, one)
    for one in grams[:3]:
        first.factors(LOSSES, one)
    second.load_state(first.state())
    for one in grams[3:]:
        found = second.factors(LOSSES, one)
    assert torch.equal(found, wanted)


def test_looking_moves_nothing() -> None:
    ran = run(DynamicLambda(), objective(), epochs=1)
    made, batch = ran.training.distiller, ran.records[0].batch
    kept, factors = {name: part.clone() for name, part in made.balancer.state().items()}, made.objective.factors
    made(batch)
    assert all(torch.equal(part, kept[name]) for name, part in made.balancer.state().items())
    assert torch.equal(made.objective.factors, factors)


@pytest.mark.parametrize(
    "wrong, words",
    [
        ({"form": "C"}, "form must be one of A, B"),
        ({"mu": 1.5}, "mu must lie in"),
        ({"kappa": 2.0}, "kappa must be at most 1"),
        ({"lo": 0.9, "hi": 0.1}, "lo must not be above hi"),
        ({"rule": "angle"}, "reference='val'"),
        ({"rule": "mgda", "form": "A"}, "is of form 'B'"),
        ({"level": "none"}, "level must be one of"),
        ({"level": "logits", "reference": "val"}, "sees training samples only"),
    ],
)
def test_arguments_that_do_not_fit(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        DynamicLambda(**wrong)


def test_it_needs_both_losses() -> None:
    for alone in (KD() + KD(T=1.0), CE() * 2):
        with pytest.raises(UsageError, match=r"KD\(T=4\) \+ CE\(\)"):
            DynamicLambda().start(alone)
