"""Exact and conjugate gradients against the dense damped oracle; what all solvers share: schedules, states, refusals.

Over 300 lines, since what all solvers share is tested on all of them in one place.
"""

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from limbeck.align.taps import Tapped
from limbeck.catalogue import Row, rows
from limbeck.core.batch import Batch
from limbeck.core.errors import RunError, UnsupportedModelError, UsageError
from limbeck.influence.curvature import products, together
from limbeck.influence.curvature.conjugate_gradient import ConjugateGradient
from limbeck.influence.curvature.diagonal import Diagonal
from limbeck.influence.curvature.ekfac import EKFAC
from limbeck.influence.curvature.exact import Exact
from limbeck.influence.curvature.identity import Identity
from limbeck.influence.curvature.kfac import KFAC
from limbeck.influence.curvature.last_layers import LastLayers
from limbeck.influence.curvature.lbfgs import LBFGS
from limbeck.influence.curvature.lissa import LiSSA
from limbeck.influence.curvature.products import Curvature, curvature_product, curvature_products, dense
from limbeck.influence.curvature.solver import Problem, Solver
from limbeck.influence.curvature.together import Together
from limbeck.influence.gradients import Way, inner_products, mean_gradient
from limbeck.influence.prepared import Reread
from limbeck.influence.task import Distillation
from limbeck.influence.vectors import Vector, dot, flatten, trainable, unflatten
from limbeck.losses.labels.ce import CE
from limbeck.losses.logits.kd import KD
from support.makers import generator, labels, normal, told_teacher
from support.nets import BY_NAME, TASK


def problem(name: str = "mlp", seed: int = 0) -> Problem:
    return Problem(BY_NAME[name].make(), TASK, BY_NAME[name].batch().split(2), generator(seed))


def query_gradient(found: Problem) -> Vector:
    return mean_gradient(found.model, found.task.query_loss, found.batches)[0]


def softmax_regression() -> Problem:
    """Convex: 40 samples, 4 features, 3 classes, distillation and labels mixed."""
    batch = Batch(normal(40, 4), labels(40, classes=3), torch.arange(40), None, {"teacher": normal(40, 3, seed=1)})
    torch.manual_seed(0)
    task = Distillation(KD(T=2) * 0.5 + CE() * 0.5, told_teacher)
    return Problem(Tapped(nn.Linear(4, 3).double()), task, [batch], generator())


def test_identity_is_the_gradient() -> None:
    v = query_gradient(problem())
    assert Identity().solve(v, problem()) is v


@pytest.mark.parametrize("curvature", ["gauss_newton", "hessian"])
@pytest.mark.parametrize("relative", [True, False])
def test_exact_is_the_damped_inverse(curvature: Curvature, relative: bool) -> None:
    found = problem()
    v, matrix = query_gradient(found), dense(found, curvature)
    damping = 0.3 * (float(matrix.trace()) / len(matrix) if relative else 1)
    bent = pytest.warns(UserWarning, match="negative eigenvalues") if curvature == "hessian" else nullcontext()
    with bent:
        q = Exact(0.3, relative=relative, curvature=curvature).solve(v, found)
    assert_close((matrix + damping * torch.eye(len(matrix), dtype=torch.float64)) @ flatten(q), flatten(v), rtol=1e-9, atol=1e-12)


def test_exact_without_damping_takes_the_smallest_answer_where_the_matrix_is_singular() -> None:
    """Adding a constant to every class changes no probability: the matrix of softmax regression is singular."""
    found = softmax_regression()
    v, matrix = query_gradient(found), dense(found, "gauss_newton")
    q = flatten(Exact(0).solve(v, found))
    assert_close(matrix @ q, flatten(v), rtol=1e-8, atol=1e-12)
    assert_close(q, flatten(Exact(1e-9, relative=False).solve(v, found)), rtol=1e-5, atol=1e-7)


def test_exact_refuses_large_models() -> None:
    big = Problem(Tapped(nn.Linear(1000, 6)), TASK, [], generator())
    with pytest.raises(UnsupportedModelError, match="6006 trainable parameters, more than 5000"):
        Exact().update(big)


@pytest.mark.parametrize("preconditioner", [None, EKFAC(), Diagonal()], ids=repr)
def test_conjugate_gradients_equal_exact_on_a_convex_problem(preconditioner: Solver | None) -> None:
    found = softmax_regression()
    v = query_gradient(found)
    exact = flatten(Exact(0.01, relative=False).solve(v, found))
    solver = ConjugateGradient(0.01, 100, relative=False, tolerance=1e-12, preconditioner=preconditioner)
    assert_close(flatten(solver.solve(v, found)), exact, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(
    "solver",
    [
        LiSSA(1.0, 40, relative=False),
        LiSSA(1.0, 40, relative=False, scale=1.5),
        LBFGS(1.0, 100, memory=100, relative=False, tolerance=1e-12),
        LBFGS(1.0, 300, memory=3, relative=False, tolerance=1e-12),
    ],
    ids=["LiSSA", "LiSSA, scale given", "LBFGS", "LBFGS, short memory"],
)
def test_series_and_lbfgs_equal_exact_on_a_convex_problem(solver: Solver) -> None:
    found = softmax_regression()
    v = query_gradient(found)
    exact = flatten(Exact(1.0, relative=False).solve(v, found))
    assert_close(flatten(solver.solve(v, found)), exact, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("make", [ConjugateGradient, LBFGS])
def test_lbfgs_with_full_memory_walks_the_path_of_conjugate_gradients(make: Callable[..., Solver]) -> None:
    found = softmax_regression()
    v = query_gradient(found)
    matrix = dense(found, "gauss_newton")
    for steps in (1, 3, 6):
        q = flatten(make(0.05, steps, relative=False, tolerance=1e-12).solve(v, found))
        bent = matrix + 0.05 * torch.eye(15, dtype=torch.float64)
        krylov = torch.stack([torch.linalg.matrix_power(bent, power) @ flatten(v) for power in range(steps)], 1)
        basis = torch.linalg.qr(krylov).Q  # the best of the Krylov space in the energy norm is what CG gives
        wanted = basis @ torch.linalg.solve(basis.T @ bent @ basis, basis.T @ flatten(v))
        assert_close(q, wanted, rtol=1e-6, atol=1e-8)


def test_lissa_says_where_it_had_not_come_to_rest_and_where_it_cannot() -> None:
    found = softmax_regression()
    v = query_gradient(found)
    with pytest.warns(UserWarning, match="LiSSA: 3 products leave"):
        LiSSA(0.01, 3, relative=False).solve(v, found)
    with pytest.raises(RunError, match="grew without bound"):
        LiSSA(0.01, 100, relative=False, scale=0.02).solve(v, found)


def test_lissa_on_drawn_samples_is_right_on_average() -> None:
    found = softmax_regression()
    v = query_gradient(found)
    exact = flatten(Exact(1.0, relative=False).solve(v, found))
    q = flatten(LiSSA(1.0, 12, relative=False, batch=20, repeats=4, scale=1.6).solve(v, found))
    assert float((q - exact).norm() / exact.norm()) < 0.1


@pytest.mark.parametrize("inner", [Identity(), EKFAC(), Exact(), ConjugateGradient(), Diagonal()], ids=repr)
def test_last_layers_are_the_inner_solver_on_a_model_whose_other_layers_are_frozen(inner: Solver) -> None:
    found, frozen = problem("layer norm"), problem("layer norm")
    v = query_gradient(found)
    names = list(trainable(found.model))
    q = LastLayers(inner).solve(v, found)
    assert set(q) == set(names[-2:])
    assert all(part.requires_grad for part in found.model.parameters())
    for name, part in frozen.model.named_parameters():
        part.requires_grad_(name in names[-2:])
    inner.load_state({})
    wanted = inner.solve({name: v[name] for name in names[-2:]}, frozen)
    for name, part in wanted.items():
        assert_close(q[name], part)


def test_parameters_that_q_leaves_out_do_not_move() -> None:
    case = BY_NAME["batch norm, train mode"]
    model, batch = case.make(), case.batch()
    v = query_gradient(Problem(model, TASK, [batch], generator()))
    last = list(v)[-1]
    zeros = {name: part if name == last else torch.zeros_like(part) for name, part in v.items()}
    ways: list[Way] = ["forward", "reverse"]
    for way in ways:
        found = inner_products(model, TASK.training_loss, batch, {last: v[last]}, way=way)
        assert_close(found, inner_products(model, TASK.training_loss, batch, zeros, way=way))


def test_conjugate_gradients_damping_is_relative_to_the_curvature_along_v() -> None:
    found = softmax_regression()
    v = query_gradient(found)
    row, matrix = flatten(v), dense(found, "gauss_newton")
    damping = 0.5 * float(row @ matrix @ row / (row @ row))
    ours = ConjugateGradient(0.5, 100, tolerance=1e-12).solve(v, found)
    assert_close(
        flatten(ours), torch.linalg.solve(matrix + damping * torch.eye(len(row), dtype=torch.float64), row), rtol=1e-8, atol=1e-8
    )


def test_conjugate_gradients_stop_at_their_tolerance_and_their_steps() -> None:
    found = softmax_regression()
    v, matrix = query_gradient(found), dense(found, "gauss_newton") + 0.01 * torch.eye(15, dtype=torch.float64)

    def residual(steps: int, tolerance: float) -> float:
        q = flatten(ConjugateGradient(0.01, steps, relative=False, tolerance=tolerance).solve(v, found))
        return float((matrix @ q - flatten(v)).norm() / flatten(v).norm())

    assert residual(100, 1e-3) < 1e-3
    assert residual(100, 1e-3) > residual(100, 1e-6)
    assert residual(1, 1e-6) > residual(5, 1e-6) > residual(15, 1e-6)
    nought = {name: torch.zeros_like(part) for name, part in v.items()}
    assert flatten(ConjugateGradient().solve(nought, found)).abs().sum() == 0


@pytest.mark.parametrize("name", ["batch norm, eval mode", pytest.param("dropout", marks=pytest.mark.slow)])
@pytest.mark.parametrize("curvature", ["gauss_newton", "hessian"])
def test_products_of_many_directions_equal_one_after_the_other(
    name: str, curvature: Curvature, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = problem(name)
    rows = {key: normal(5, *part.shape, seed=3) for key, part in trainable(found.model).items()}
    slow = [curvature_product(found, {key: part[k] for key, part in rows.items()}, curvature) for k in range(5)]
    for numbers in (1, 300, 2**24):  # alone, some together, all together
        monkeypatch.setattr(products, "NUMBERS", numbers)
        fast = curvature_products(found, rows, curvature)
        for key, part in fast.items():
            assert_close(part, torch.stack([one[key] for one in slow]), rtol=1e-10, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["batch norm, eval mode", "tokens", "a weight used functionally", "batch norm, train mode"])
def test_products_by_written_output_gradients_equal_one_after_the_other(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kept or made anew, in pieces or whole; not taken where layers do not own their weights, or samples meet."""
    found = problem(name)
    found.model.train(name == "batch norm, train mode")
    rows = {key: normal(5, *part.shape, seed=3) for key, part in trainable(found.model).items()}
    slow = [curvature_product(found, {key: part[k] for key, part in rows.items()}, "gauss_newton") for k in range(5)]
    monkeypatch.setattr(together, "PASSES", 10**6)
    for held, numbers in ((0, 2**12), (2**27, 2**24)):
        monkeypatch.setattr(together, "HELD", held)
        monkeypatch.setattr(together, "NUMBERS", numbers)
        many = Together(found, "gauss_newton")
        for _ in range(2):
            for key, part in many(rows).items():
                assert_close(part, torch.stack([one[key] for one in slow]), rtol=1e-10, atol=1e-12)
        assert many.written is (name in ("batch norm, eval mode", "tokens"))
        assert (many.held is not None) is (many.written and held > 0)


def test_output_gradients_are_written_where_that_takes_fewer_multiplications() -> None:
    """Convolutions use their weights at many positions, a linear net at one."""
    for name, pays in (("convolutions", True), ("mlp", False)):
        found = problem(name)
        found.model.eval()
        rows = {key: normal(40, *part.shape) for key, part in trainable(found.model).items()}
        assert together.pays(found, "gauss_newton", rows) is pays
        assert not together.pays(found, "hessian", rows)


@pytest.mark.parametrize(
    "preconditioner, relative", [(None, False), pytest.param(EKFAC(), True, marks=pytest.mark.slow)], ids=repr
)
def test_conjugate_gradients_for_many_equal_one_after_the_other(preconditioner: Solver | None, relative: bool) -> None:
    """Rows that stop at once, after some steps, and at the last; a row of zeros stays."""
    found = problem()
    solver = ConjugateGradient(steps=6, damping=0.3, relative=relative, tolerance=1e-2, preconditioner=preconditioner)
    solver.update(found)
    rows = {key: normal(4, *part.shape, seed=5) for key, part in trainable(found.model).items()}
    easy = solver.solve({key: part[3] for key, part in rows.items()}, found)
    rows = {key: torch.cat([part, torch.zeros_like(part[:1]), easy[key][None]]) for key, part in rows.items()}
    slow = [solver.solve({key: part[k] for key, part in rows.items()}, found) for k in range(6)]
    for key, part in solver.solve_many(rows, found).items():
        assert_close(part, torch.stack([one[key] for one in slow]), rtol=1e-8, atol=1e-10)
        assert not part[4].any()


def test_conjugate_gradients_for_many_say_negative_curvature_and_stop_that_row_only() -> None:
    found = problem()
    solver = ConjugateGradient(steps=8, damping=0.0, curvature="hessian", tolerance=1e-9)
    rows = {key: normal(6, *part.shape, seed=7) for key, part in trainable(found.model).items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        slow = [solver.solve({key: part[k] for key, part in rows.items()}, found) for k in range(6)]
    with pytest.warns(UserWarning, match="negative curvature"):
        many = solver.solve_many(rows, found)
    for key, part in many.items():
        assert_close(part, torch.stack([one[key] for one in slow]), rtol=1e-6, atol=1e-9)


def test_negative_curvature_is_said() -> None:
    found = problem()
    matrix = dense(found, "hessian")
    values, vectors = torch.linalg.eigh(matrix)
    assert values[0] < -1e-3
    v = unflatten(vectors[:, 0].contiguous(), dict(trainable(found.model)))
    with pytest.warns(UserWarning, match="negative curvature"):
        ConjugateGradient(curvature="hessian").solve(v, found)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ConjugateGradient(curvature="gauss_newton").solve(v, found)
        ConjugateGradient(10, relative=False, curvature="hessian").solve(v, found)


def make(row: Row) -> Solver:
    solver = row.resolve()()
    assert isinstance(solver, Solver)
    return solver


SOLVERS: list[Callable[[], Solver]] = [
    *(lambda row=row: make(row) for row in rows("solvers") if row.name not in {"ConjugateGradient", "LiSSA", "LastLayers"}),  # type: ignore[misc]
    lambda: ConjugateGradient(steps=3),
    lambda: LiSSA(1.0, steps=5),
    lambda: LastLayers(EKFAC()),
    lambda: ConjugateGradient(steps=3, preconditioner=EKFAC()),
    lambda: Diagonal(fisher="empirical"),
]
each_solver = pytest.mark.parametrize("make", SOLVERS, ids=lambda make: repr(make()))


@each_solver
def test_state_round_trips(make: Callable[[], Solver]) -> None:
    """Nothing but the state is needed: the twin sees other samples, and its answer is the same to the bit."""
    found, solver, twin = problem("layer norm"), make(), make()
    v = query_gradient(found)
    solver.update(found, 7)
    state = {name: part.clone() for name, part in solver.state().items()}
    assert all(isinstance(part, Tensor) for part in state.values())
    twin.load_state(state)
    assert [twin.wants(step, 9) for step in (8, 56, 57, 207)] == [solver.wants(step, 9) for step in (8, 56, 57, 207)]
    again = Problem(found.model, TASK, found.batches, generator(5))
    assert torch.equal(flatten(twin.solve(v, again)), flatten(solver.solve(v, again)))
    make().load_state({})


@each_solver
def test_answers_are_finite_and_point_downhill(make: Callable[[], Solver]) -> None:
    """A positive definite inverse keeps the angle to the gradient below 90 degrees."""
    found = problem("layer norm")
    v = query_gradient(found)
    q = make().solve(v, found)
    assert set(q) <= set(v)
    assert all(torch.isfinite(part).all() for part in q.values())
    assert dot(q, {name: v[name] for name in q}) > 0


@pytest.mark.parametrize(
    "solver, refresh",
    [(Exact(refresh=3), 3), (KFAC(refresh=3), 3), (Diagonal(refresh=3), 3), (EKFAC(statistics=3, basis=6), 3)],
    ids=repr,
)
def test_schedule(solver: Solver, refresh: int) -> None:
    found = problem()
    assert solver.wants(0, 24) == 24
    solver.update(found, 10)
    then = 16 if isinstance(solver, EKFAC) else 24
    assert [solver.wants(step, 24) for step in range(10, 10 + refresh + 2)] == [0] * refresh + [then, then]
    assert Identity().wants(10**6, 24) == ConjugateGradient().wants(10**6, 24) == 0
    assert ConjugateGradient(preconditioner=EKFAC()).wants(0, 24) == 24


def test_ekfac_renews_moments_more_often_than_the_basis() -> None:
    found, solver = problem(), EKFAC(statistics=2, basis=4)
    solver.update(found, 0)
    first = {name: part.clone() for name, part in solver.state().items()}
    with torch.no_grad():
        next(iter(trainable(found.model).values())).add_(0.5)

    def same(part: str) -> bool:
        state = solver.state()
        return all(torch.equal(state[name], first[name]) for name in first if name.startswith(part))

    solver.update(found, 2)
    assert (same("inputs/"), same("outputs/"), same("values/")) == (True, True, False)
    solver.update(found, 4)
    assert (same("inputs/"), same("outputs/"), same("values/")) == (False, False, False)
    assert int(solver.state()["turned"]) == int(solver.state()["updated"]) == 4


@pytest.mark.parametrize(
    "make",
    [
        lambda: EKFAC(0),
        lambda: KFAC(-1),
        lambda: Diagonal(math.nan),
        lambda: Exact(-1),
        lambda: ConjugateGradient(steps=0),
        lambda: ConjugateGradient(tolerance=0),
        lambda: ConjugateGradient(curvature="fisher"),
        lambda: Exact(curvature="fisher"),
        lambda: Diagonal(fisher="given"),
        lambda: EKFAC(basis=0),
        lambda: EKFAC(samples=0),
        lambda: EKFAC(keep=1.5),
        lambda: EKFAC(fisher="given"),
    ],
)
def test_arguments_are_checked(make: Callable[[], Solver]) -> None:
    with pytest.raises(UsageError, match="must "):
        make()


def test_samples_that_are_drawn_again_and_again_are_read_once() -> None:
    batches = BY_NAME["mlp"].batch().split(2)

    class Counted:
        passes = 0

        def __iter__(self) -> Iterator[Batch]:
            Counted.passes += 1
            return iter(batches)

    problem = Problem(BY_NAME["mlp"].make(), TASK, Reread(Counted()), generator())
    drawn = [problem.drawn(3).batches[0].index.tolist() for _ in range(4)]
    assert Counted.passes == 1
    assert len({tuple(rows) for rows in drawn}) > 1
