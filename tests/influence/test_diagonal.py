"""The diagonal of the Fisher matrix against explicit per-sample gradients."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from limbeck.align.taps import Tapped
from limbeck.core.batch import Batch
from limbeck.core.errors import UnsupportedModelError, UsageError
from limbeck.influence.curvature.diagonal import Diagonal
from limbeck.influence.curvature.products import dense
from limbeck.influence.curvature.solver import Problem
from limbeck.influence.gradients import per_sample_gradients_slow
from limbeck.influence.restoring import modes_restored
from limbeck.influence.task import Supervised
from limbeck.influence.vectors import flatten, trainable, unflatten
from support.labels_in_turn import deal
from support.makers import generator, normal
from support.nets import BY_NAME, CASES, Case, Tokens

REFUSED = {"LSTM", "a function without forward derivative"}
SMALL = [case for case in CASES if case.name not in REFUSED | {"ResNet-8x4", "MobileNetV2"}]


def squares(solver: Diagonal, problem: Problem) -> torch.Tensor:
    solver.update(problem)
    return flatten({name: part for name, part in solver.state().items() if not name.startswith("/")})


@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
def test_empirical_squares_are_those_of_explicit_gradients(case: Case) -> None:
    model, batch = case.make(), case.batch()
    found = squares(Diagonal(fisher="empirical"), Problem(model, Supervised(), batch.split(2), generator()))
    with modes_restored(model, training=False):
        rows = per_sample_gradients_slow(model, Supervised().training_loss, batch)
    assert_close(found, rows.square().mean(0), rtol=1e-9, atol=1e-14)


def test_true_squares_are_the_diagonal_of_gauss_newton(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = nn.Linear(4, 3)
    for part in layer.parameters():
        nn.init.zeros_(part)
    model = Tapped(layer).double()
    problem = Problem(model, Supervised(), [deal(monkeypatch, normal(6, 4), 3)], generator())
    assert_close(squares(Diagonal(), problem), dense(problem, "gauss_newton").diagonal())


def test_true_squares_of_tokens_are_gauss_newtons_on_average() -> None:
    """Samples of six tokens and of one: each enters with the mean over its tokens, not with a sixth of it."""
    torch.manual_seed(0)
    model, batch = Tapped(Tokens()).double(), BY_NAME["tokens"].batch()
    rows = [squares(Diagonal(), Problem(model, Supervised(), [batch], generator(seed))) for seed in range(80)]
    wanted = dense(Problem(model, Supervised(), [batch], generator()), "gauss_newton").diagonal()
    mean = torch.stack(rows).mean(0)
    assert float(mean.sum() / wanted.sum()) == pytest.approx(1, abs=0.06)
    assert float(torch.corrcoef(torch.stack([mean, wanted]))[0, 1]) > 0.97


def test_solve_divides_by_squares_and_a_share_of_their_mean() -> None:
    case = BY_NAME["mlp"]
    problem = Problem(case.make(), Supervised(), [case.batch()], generator())
    solver = Diagonal(0.2)
    f = squares(solver, problem)
    v = unflatten(normal(len(f)), dict(trainable(problem.model)))
    assert_close(flatten(solver.solve(v, problem)), flatten(v) / (f + 0.2 * f.mean()))


def test_many_samples_are_cut_into_rows() -> None:
    case = BY_NAME["mlp"]
    model, batch = case.make(), case.batch(rows=300)
    whole = squares(Diagonal(fisher="empirical"), Problem(model, Supervised(), [batch], generator()))
    parts = squares(Diagonal(fisher="empirical"), Problem(model, Supervised(), batch.split(7), generator()))
    assert_close(whole, parts)


def test_train_mode_statistics_are_not_touched() -> None:
    case = BY_NAME["batch norm, train mode"]
    model = case.make()
    before = {name: part.clone() for name, part in model.state_dict().items()}
    squares(Diagonal(), Problem(model, Supervised(), [case.batch()], generator()))
    assert model.training
    assert all(torch.equal(part, before[name]) for name, part in model.state_dict().items())


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_cannot_be_taken_sample_by_sample_is_refused_in_one_line(name: str) -> None:
    case = BY_NAME[name]
    with pytest.raises(UnsupportedModelError, match=r"Diagonal: .* sample by sample .*; use EKFAC\(\)") as caught:
        Diagonal().update(Problem(case.make(), Supervised(), [case.batch()], generator()))
    assert "\n" not in str(caught.value)


def test_the_empirical_fisher_needs_labels() -> None:
    batch = Batch(normal(4, 5), None, torch.arange(4))
    with pytest.raises(UsageError, match="needs labels"):
        Diagonal(fisher="empirical").update(Problem(BY_NAME["mlp"].make(), Supervised(), [batch], generator()))
