"""What a score means: it foretells real retraining (kd-aif.md, section 9, invariants 1 to 7)."""

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from limbeck.align.taps import Tapped
from limbeck.core.batch import Batch
from limbeck.core.errors import UsageError
from limbeck.evaluation.flips import flip_auc
from limbeck.influence.curvature.conjugate_gradient import ConjugateGradient
from limbeck.influence.curvature.ekfac import EKFAC
from limbeck.influence.curvature.exact import Exact
from limbeck.influence.curvature.identity import Identity
from limbeck.influence.curvature.kfac import KFAC
from limbeck.influence.curvature.solver import Problem, Solver
from limbeck.influence.gradients import inner_products, mean_gradient, per_sample_gradients_slow
from limbeck.influence.scores import score
from limbeck.influence.task import Distillation, Forward
from limbeck.influence.vectors import flatten
from limbeck.losses.labels.ce import CE
from limbeck.losses.logits.kd import KD
from support.convex import SoftmaxRegression, correlation, regression
from support.makers import FromTheMean, generator, normal

PROBLEM = regression()


class Squares:
    """r^2 / 2 on a linear model with one output: ridge regression."""

    coupled = False

    def training_loss(self, student: Forward, batch: Batch) -> Tensor:
        return (student(batch).logits[:, 0] - batch.meta["value"]).square() / 2

    query_loss = training_loss


def ridge() -> tuple[Tapped, Batch, Batch, Tensor]:
    """Model at the minimum, training samples, queries, damped Hessian."""
    x, truth, lam = normal(200, 6), normal(6, seed=1), 0.05
    train = Batch(x, None, torch.arange(200), None, {"value": x @ truth + normal(200, seed=2)})
    far = normal(30, 6, seed=3)
    query = Batch(far, None, torch.arange(30), None, {"value": far @ truth + normal(30, seed=4)})
    hessian = x.T @ x / 200 + lam * torch.eye(6, dtype=torch.float64)
    layer = nn.Linear(6, 1, bias=False).double()
    layer.weight.data[0] = torch.linalg.solve(hessian, x.T @ train.meta["value"] / 200)
    return Tapped(layer), train, query, hessian


def test_ridge_leave_one_out() -> None:
    """Invariant 3: the parameter change is exactly H^-1 g_i / (N (1 - h_i)), and -phi / N foretells the query loss."""
    model, train, query, hessian = ridge()
    x, y, theta = train.inputs, train.meta["value"], model.model.weight.detach()[0]
    gradients = per_sample_gradients_slow(model, Squares().training_loss, train)
    leverage = (x * torch.linalg.solve(hessian, x.T).T).sum(1) / 200
    moved = torch.stack(
        [torch.linalg.solve(hessian - x[i].outer(x[i]) / 200, x.T @ y / 200 - x[i] * y[i] / 200) for i in range(200)]
    )
    assert_close(
        moved - theta, torch.linalg.solve(hessian, gradients.T).T / (200 * (1 - leverage)).unsqueeze(1), rtol=1e-9, atol=1e-12
    )
    found = score(model, Squares(), [train], [query], Exact(0.05, relative=False))
    before, after = ((query.inputs @ w.T - query.meta["value"].unsqueeze(1)).square().mean(0) / 2 for w in (theta[None], moved))
    assert correlation(-found.phi / 200, after - before) > 0.99
    assert found.query_loss == pytest.approx(float(before))


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_softmax_regression_leave_one_out(alpha: float, seed: int) -> None:
    """Invariant 4: mixed loss, every sample really left out and the model fitted anew; the slope is 1 as well."""
    problem = regression(alpha, seed=40 * seed)
    foretold, real = -problem.exact_phi / problem.count, problem.left_out
    assert correlation(foretold, real) > 0.99
    slope = float((foretold * real).sum() / foretold.square().sum())
    assert 0.9 < slope < 1.1
    assert torch.equal(foretold[real.abs() > 0.3 * real.abs().max()] > 0, real[real.abs() > 0.3 * real.abs().max()] > 0)


def test_scores_are_the_formula_written_out() -> None:
    """Invariants 1 and 2: -v' H^-1 g_i with g_i = (logit gradient) x', all of it by hand."""
    theta = PROBLEM.minimum
    (slopes,), (curvatures,) = PROBLEM.slopes(theta.unsqueeze(0))
    x = PROBLEM.train.inputs
    hessian = torch.einsum("nce,nd,nf->cdef", curvatures, x, x).reshape(15, 15) / PROBLEM.count
    hessian += PROBLEM.l2 * torch.eye(15, dtype=torch.float64)
    query = PROBLEM.query
    assert query.targets is not None
    errors = (query.inputs @ theta.T).softmax(1) - nn.functional.one_hot(query.targets, 3)
    v = (errors.T @ query.inputs / len(query)).flatten()
    g = torch.einsum("nc,nd->ncd", slopes, x).flatten(1)
    assert_close(PROBLEM.exact_phi, -g @ torch.linalg.solve(hessian, v), rtol=1e-9, atol=1e-11)
    assert_close(PROBLEM.phi(Identity()), -g @ v, rtol=1e-10, atol=1e-12)


def test_conjugate_gradients_are_exact() -> None:
    """Invariant 5."""
    found = PROBLEM.phi(ConjugateGradient(0.01, 100, relative=False, tolerance=1e-13))
    assert_close(found, PROBLEM.exact_phi, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("solver", [EKFAC(), KFAC(), Identity()], ids=repr)
def test_cheap_inverses_rank_alike(solver: Solver) -> None:
    assert correlation(PROBLEM.phi(solver), PROBLEM.phi(Exact())) > 0.85


@pytest.mark.parametrize("solver", [Exact(), ConjugateGradient(), EKFAC(), Identity()], ids=repr)
def test_duplicating_the_queries_changes_nothing(solver: Solver) -> None:
    """Invariant 6, first part; cutting the queries into batches is no change either."""
    theta = PROBLEM.minimum
    model, query = PROBLEM.model(theta), PROBLEM.query
    once = score(model, PROBLEM.task, [PROBLEM.train], [query], solver)
    twice = score(model, PROBLEM.task, [PROBLEM.train], [query, *query.split(3)], solver)
    assert_close(twice.phi, once.phi, rtol=1e-9, atol=1e-11)
    assert twice.query_loss == pytest.approx(once.query_loss)


@pytest.mark.parametrize("solver", [Exact(), ConjugateGradient(0.1, 60, relative=False, tolerance=1e-13), EKFAC()], ids=repr)
def test_scores_are_linear_in_the_query_gradient(solver: Solver) -> None:
    """Invariant 6, second part."""
    theta = PROBLEM.minimum
    problem = Problem(PROBLEM.model(theta), PROBLEM.task, [PROBLEM.train], generator())
    solver.update(problem)
    one, two = (mean_gradient(problem.model, PROBLEM.task.query_loss, [part])[0] for part in PROBLEM.query.split(2))
    both = {name: 2 * one[name] - 3 * two[name] for name in one}
    a, b, c = (
        inner_products(problem.model, PROBLEM.task.training_loss, PROBLEM.train, solver.solve(v, problem))
        for v in (one, two, both)
    )
    assert_close(c, 2 * a - 3 * b, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("solver", [Exact(0.2), ConjugateGradient(0.2, 60, tolerance=1e-13)], ids=repr)
@pytest.mark.parametrize("scale", [0.01, 7.0])
def test_scaling_the_training_loss_changes_nothing_under_relative_damping(solver: Solver, scale: float) -> None:
    """Invariant 6, third part."""
    theta = PROBLEM.minimum
    tasks = [Distillation(KD(T=3) * (0.5 * s) + CE() * (0.5 * s), PROBLEM.task.teacher) for s in (1.0, scale)]
    plain, scaled = (score(PROBLEM.model(theta), task, [PROBLEM.train], [PROBLEM.query], solver).phi for task in tasks)
    assert_close(scaled, plain, rtol=1e-7, atol=1e-9)


def test_mean_score_is_0_at_an_unregularised_minimum() -> None:
    """Invariant 7; and with l2 it is l2 v' H^-1 theta."""
    free = SoftmaxRegression(l2=0)
    phi = free.phi(Exact(0))
    assert abs(float(phi.mean())) < 1e-9 * float(phi.abs().mean())
    theta = PROBLEM.minimum
    problem = Problem(PROBLEM.model(theta), PROBLEM.task, [PROBLEM.train], generator())
    v = mean_gradient(problem.model, PROBLEM.task.query_loss, [PROBLEM.query])[0]
    q = Exact(PROBLEM.l2, relative=False).solve(v, problem)
    assert float(PROBLEM.exact_phi.mean()) == pytest.approx(float(PROBLEM.l2 * flatten(q) @ theta.flatten()), rel=1e-8)


@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_flipped_labels_have_high_scores(alpha: float) -> None:
    """Invariant 11."""
    for seed in range(3):
        problem = regression(alpha, 0.2, 40 * seed)
        exact, cheap = (flip_auc(phi, problem.flipped) for phi in (problem.exact_phi, problem.phi(EKFAC())))
        assert exact is not None
        assert cheap is not None
        assert exact > 0.8
        assert cheap > exact - 0.06


def test_scores_of_a_loss_that_couples_samples() -> None:
    model, train = PROBLEM.model(PROBLEM.minimum), PROBLEM.train.take(slice(0, 20))
    task = Distillation(FromTheMean() * 0.1 + CE(), None)
    found = score(model, task, [train], [PROBLEM.query], Identity())
    v = flatten(mean_gradient(model, task.query_loss, [PROBLEM.query])[0])
    assert_close(found.phi, -per_sample_gradients_slow(model, task.training_loss, train) @ v)


def test_scores_keep_the_samples_order_and_identity() -> None:
    theta = PROBLEM.minimum
    model, order = PROBLEM.model(theta), torch.randperm(PROBLEM.count, generator=generator())
    seen: list[int] = []
    mixed = score(model, PROBLEM.task, PROBLEM.train.take(order).split(4), [PROBLEM.query], Exact(), on_batch=seen.append)
    plain = score(model, PROBLEM.task, [PROBLEM.train], [PROBLEM.query], Exact())
    assert torch.equal(mixed.index, order)
    assert_close(mixed.phi, plain.phi[order])
    assert sum(seen) == PROBLEM.count
    assert mixed.solver == "Exact(damping=0.1)"
    for train, query in (([], [PROBLEM.query]), ([PROBLEM.train], [])):
        with pytest.raises(UsageError, match="at least one training and one query sample"):
            score(model, PROBLEM.task, train, query)
