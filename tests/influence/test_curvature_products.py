"""Gauss-Newton and Hessian products against matrices built from explicit derivatives."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.functional import hessian, jacobian
from torch.func import functional_call
from torch.testing import assert_close

from limbeck.align.taps import Tapped
from limbeck.core.batch import Batch
from limbeck.core.errors import UnsupportedModelError
from limbeck.core.outputs import Outputs
from limbeck.influence.curvature.products import Curvature, curvature_product, dense
from limbeck.influence.curvature.solver import Problem
from limbeck.influence.task import Supervised
from limbeck.influence.vectors import flatten, trainable, unflatten
from support.makers import generator, normal
from support.nets import BY_NAME, CASES, TASK, Case

SMALL = [
    BY_NAME[name]
    for name in (
        "mlp",
        "batch norm, train mode",
        "dropout",
        "tokens",
        "a module used twice",
        "attention, eval mode",
        "encoder layer with dropout",
        "LSTM",
        "a rectifier in place",
    )
]


def problem(case: Case, parts: int = 1) -> Problem:
    return Problem(case.make(), TASK, case.batch().split(parts), generator())


def loss_of(logits: Tensor, batch: Batch) -> Tensor:
    return TASK.training_loss(lambda _: Outputs(logits), batch).mean()


def logits_of(model: Tapped, batch: Batch) -> Callable[[Tensor], Tensor]:
    """The logits as a function of all parameters in one row."""
    own = {name: part.detach() for name, part in trainable(model).items()}

    def logits(row: Tensor) -> Tensor:
        outputs: Outputs = functional_call(model, unflatten(row, own), (batch,))
        return outputs.logits

    return logits


def explicit(found: Problem, kind: Curvature) -> Tensor:
    """J' Lambda J, or the Hessian, by plain autograd, row after row.

    Not by torch.func: its vectorised second derivative of layer normalisation is wrong (torch 2.14; finite differences agree
    with plain autograd and with ours).
    """
    (batch,) = found.batches
    logits, row = logits_of(found.model, batch), flatten(trainable(found.model)).detach()  # type: ignore[arg-type]
    if kind == "hessian":
        return hessian(lambda theta: loss_of(logits(theta), batch), row)
    values = logits(row)
    slopes = jacobian(logits, row).reshape(values.numel(), -1)
    curvature = hessian(lambda z: loss_of(z, batch), values).reshape(values.numel(), values.numel())
    return slopes.T @ curvature @ slopes


@pytest.mark.parametrize("kind", ["gauss_newton", "hessian"])
@pytest.mark.parametrize("name", ["mlp", "layer norm", "a bare parameter", "a frozen layer"])
def test_dense_equals_the_matrix_of_explicit_derivatives(name: str, kind: Curvature) -> None:
    found = problem(BY_NAME[name])
    assert_close(dense(found, kind), explicit(found, kind), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
def test_gauss_newton_is_symmetric_and_positive_on_every_net(case: Case) -> None:
    """With dropout too: J and J' see the same mask."""
    matrix = dense(problem(case), "gauss_newton")
    assert matrix.abs().max() > 1e-4
    assert_close(matrix, matrix.T, rtol=0, atol=1e-12)
    assert torch.linalg.eigvalsh(matrix)[0] > -1e-12


@pytest.mark.parametrize("kind", ["gauss_newton", "hessian"])
@pytest.mark.parametrize("name", ["mlp", "dropout"])
def test_products_are_columns_of_one_matrix(name: str, kind: Curvature) -> None:
    """One at a time or many at once, and again later, it is the same matrix; it is linear."""
    found = problem(BY_NAME[name], parts=2)
    own = dict(trainable(found.model))
    matrix, row = dense(found, kind), normal(len(flatten(own)), seed=8)
    torch.rand(1)
    for _ in range(2):
        product = curvature_product(found, unflatten(row, own), kind)
        assert_close(flatten(product), matrix @ row, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("kind", ["gauss_newton", "hessian"])
def test_cutting_the_samples_changes_nothing(kind: Curvature) -> None:
    case = BY_NAME["mlp"]
    assert_close(dense(problem(case, 3), kind), dense(problem(case, 1), kind))


def test_padding_does_not_move_though_a_tied_head_moves_its_row() -> None:
    """What goes forwards and what comes back must belong to one matrix."""
    embedding = nn.Embedding(7, 5, padding_idx=3)
    head = nn.Linear(5, 7, bias=False)
    head.weight = embedding.weight
    nn.init.normal_(embedding.weight)
    net = Tapped(nn.Sequential(embedding, nn.Tanh(), head)).double()
    batch = Batch(torch.arange(12).view(3, 4) % 7, torch.arange(12).view(3, 4) % 5, torch.arange(3))
    matrix = dense(Problem(net, Supervised(), [batch], torch.Generator()), "gauss_newton")
    assert_close(matrix, matrix.T, rtol=1e-10, atol=1e-12)


def test_a_model_linear_in_its_parameters_has_gauss_newton_as_hessian() -> None:
    found = problem(BY_NAME["a frozen layer"])
    assert_close(dense(found, "gauss_newton"), dense(found, "hessian"), rtol=0, atol=1e-14)


@pytest.mark.parametrize("name", [case.name for case in CASES if not case.forward])
def test_what_lacks_a_derivative_is_refused_in_one_line(name: str) -> None:
    found = problem(BY_NAME[name])
    with pytest.raises(UnsupportedModelError, match=r"curvature products: .*; use EKFAC\(\)") as caught:
        curvature_product(found, dict(trainable(found.model)), "gauss_newton")
    assert "\n" not in str(caught.value)
