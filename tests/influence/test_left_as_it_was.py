"""Whatever goes wrong in the middle: modes, buffers, hooks, gradients, random numbers and torch's switches are as before."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn

from limbeck.align.taps import Tapped
from limbeck.core.batch import Batch
from limbeck.core.errors import UnsupportedModelError
from limbeck.core.outputs import Outputs
from limbeck.influence.curvature.diagonal import Diagonal
from limbeck.influence.curvature.ekfac import EKFAC
from limbeck.influence.curvature.exact import Exact
from limbeck.influence.curvature.solver import Problem, Solver
from limbeck.influence.gradients import inner_products, mean_gradient
from limbeck.influence.matrix import score_matrix, self_influence
from limbeck.influence.restoring import modes_restored, random_state, statistics_untouched
from limbeck.influence.scores import score
from limbeck.influence.task import Supervised
from limbeck.influence.tokens import score_tokens
from limbeck.influence.vectors import Vector, scaled, trainable
from support.makers import generator
from support.nets import CLASSES, TASK, Case

CASE = Case(
    "normalised rows",
    lambda: nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Dropout(0.2), nn.Tanh(), nn.Linear(4, CLASSES)),
)


class Failing(Solver):
    """Fails when its curvature is asked for."""

    def update(self, problem: Problem, step: int | None = None) -> None:
        raise StumbleError

    def solve(self, v: Vector, problem: Problem) -> Vector:
        raise AssertionError


class StumbleError(Exception):
    """What goes wrong."""


def stumble(*_: object) -> None:
    raise StumbleError


def failing_loss(student: Callable[[Batch], Outputs], batch: Batch) -> Tensor:
    student(batch)
    raise StumbleError


@contextmanager
def checked(model: nn.Module) -> Iterator[None]:
    """Everything that may be left changed is compared before and after."""
    model.get_submodule("model.2").eval()  # modes need not be the same everywhere
    for part in model.parameters():
        part.grad = torch.full_like(part, 7.0)
    torch.rand(1)

    def picture() -> list[object]:
        return [
            [m.training for m in model.modules()],
            [m.track_running_stats for m in model.modules() if isinstance(m, nn.BatchNorm1d)],
            sum(len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in model.modules()),
            [part.requires_grad for part in model.parameters()],
            [id(part) for part in (*model.parameters(), *model.buffers())],
            torch.backends.mha.get_fastpath_enabled(),
            (torch.backends.cuda.flash_sdp_enabled(), torch.is_grad_enabled()),
        ]

    before, state, rng = picture(), copy.deepcopy(model.state_dict()), torch.get_rng_state()
    yield
    assert picture() == before
    assert all(torch.equal(part, state[name]) for name, part in model.state_dict().items())
    assert all(part.grad is not None and bool((part.grad == 7).all()) for part in model.parameters())
    assert torch.equal(torch.get_rng_state(), rng)


def problem(model: Tapped) -> Problem:
    return Problem(model, TASK, CASE.batch().split(2), generator())


@pytest.mark.parametrize("way", ["forward", "reverse", "auto"])
def test_a_loss_that_fails_in_an_inner_product(way: str) -> None:
    model = CASE.make()
    with checked(model), pytest.raises(StumbleError):
        inner_products(model, failing_loss, CASE.batch(), dict(trainable(model)), way=way, rng=generator(3).get_state())  # type: ignore[arg-type]


def test_a_loss_that_fails_in_a_mean_gradient() -> None:
    model = CASE.make()
    with checked(model), pytest.raises(StumbleError):
        mean_gradient(model, failing_loss, [CASE.batch()])


@pytest.mark.parametrize("solver", [EKFAC(), Exact(), Diagonal()], ids=repr)
def test_a_layer_that_fails_while_curvature_is_taken(solver: Solver) -> None:
    model = CASE.make()
    handle = model.get_submodule("model.4").register_forward_hook(stumble)
    with checked(model), pytest.raises(StumbleError):
        solver.update(problem(model))
    handle.remove()


@pytest.mark.parametrize("solver", [EKFAC(), Exact(), Diagonal()], ids=repr)
def test_solvers_leave_no_trace(solver: Solver) -> None:
    model = CASE.make()
    with checked(model):
        solver.update(problem(model))
        solver.solve(scaled(trainable(model), 1.0), problem(model))


def test_a_model_error_is_not_taken_for_a_missing_derivative() -> None:
    model, batch = CASE.make(), CASE.batch()
    wrong = Batch(batch.inputs[:, :1], batch.targets, batch.index, None, batch.meta)
    with pytest.raises(RuntimeError, match="shapes"):
        inner_products(model, TASK.training_loss, wrong, dict(trainable(model)))
    with pytest.raises(RuntimeError, match="shapes"):
        Exact().update(Problem(model, TASK, [wrong], generator()))


def test_scoring_that_fails_half_way() -> None:
    model = CASE.make()
    with checked(model), pytest.raises(StumbleError):
        score(model, TASK, CASE.batch().split(2), [CASE.batch()], on_batch=stumble)


def test_matrix_and_the_rest_that_fail_half_way() -> None:
    model, batch = CASE.make(), CASE.batch()
    parts = batch.split(2)
    with checked(model):
        with pytest.raises(StumbleError):
            next(score_matrix(model, TASK, parts, [batch], tile=2, on_batch=stumble))
        with pytest.raises(StumbleError):
            self_influence(model, TASK, parts, on_batch=stumble)
        with pytest.raises(StumbleError):
            score_matrix(model, TASK, parts, [batch], Failing())
        with pytest.raises(UnsupportedModelError, match=r"\[B, L, V\]"):
            score_tokens(model, TASK, parts, [batch])


def test_between_two_tiles_the_model_is_as_it_was() -> None:
    model, batch = CASE.make(), CASE.batch()
    with checked(model):
        tiles = score_matrix(model, TASK, batch.split(2), [batch], tile=2)
        modes = [module.training for module in model.modules()]
        next(tiles)
        assert [module.training for module in model.modules()] == modes  # `tiles` is still waiting


def test_scoring_uses_running_statistics_and_restores_every_mode() -> None:
    model, batch = CASE.make(), CASE.batch()
    with checked(model):
        found = score(model, TASK, batch.split(2), [batch], Diagonal())
    with modes_restored(model, training=False):
        again = score(model, TASK, [batch], [batch], Diagonal())
    assert torch.allclose(found.phi, again.phi)  # no batch statistics: the cut does not matter


def test_contexts_nest() -> None:
    model = CASE.make()
    inner = generator(4).get_state()
    with checked(model), statistics_untouched(model), random_state(inner):
        with statistics_untouched(model), random_state(generator(9).get_state()):
            model(CASE.batch())
            torch.rand(3)
        assert torch.equal(torch.get_rng_state(), inner)
        model(CASE.batch())


def test_training_goes_on_counting_afterwards() -> None:
    """The switch that stills running statistics is back on."""
    model, batch = CASE.make(), CASE.batch()
    inner_products(model, Supervised().training_loss, batch, dict(trainable(model)))
    before = model.state_dict()["model.1.running_mean"].clone()
    model(batch)
    assert not torch.equal(model.state_dict()["model.1.running_mean"], before)
    assert int(model.state_dict()["model.1.num_batches_tracked"]) == 1
