"""A layer that fails at any one of its passes, forwards or backwards: whatever was under way, no trace is left."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from limbeck.align.taps import Tapped
from limbeck.core.batch import Batch
from limbeck.influence.curvature.capture import capture
from limbeck.influence.curvature.solver import Problem
from limbeck.influence.matrix import score_matrix, self_influence
from limbeck.influence.scores import score
from limbeck.influence.task import Supervised
from limbeck.influence.tokens import score_tokens
from support.fuses import BlownError, fuse, last_linear, switches
from support.makers import generator, labels, normal
from support.nets import BY_NAME

TASK = Supervised()
Made = tuple[Tapped, Batch]


class Counting(nn.Module):
    """Counts its calls in a buffer, in every mode: what built-in layers do only in train mode."""

    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x


def rows() -> Made:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), Counting(), nn.Tanh(), nn.Linear(4, 3))
    return Tapped(net).double(), Batch(normal(6, 5), labels(6, classes=3), torch.arange(6))


def tokens() -> Made:
    return BY_NAME["tokens"].make(), BY_NAME["tokens"].batch()


PATHS: dict[str, tuple[Callable[[], Made], Callable[[Tapped, Batch], object]]] = {
    "score": (rows, lambda model, batch: score(model, TASK, batch.split(2), [batch])),
    "matrix": (rows, lambda model, batch: list(score_matrix(model, TASK, batch.split(2), [batch], tile=4))),
    "self-influence": (rows, lambda model, batch: self_influence(model, TASK, batch.split(2))),
    "tokens": (tokens, lambda model, batch: score_tokens(model, TASK, batch.split(2), [batch])),
}


@pytest.mark.slow
@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("name", PATHS)
def test_every_pass_of_a_scoring_may_fail(name: str, backward: bool) -> None:
    make, path = PATHS[name]
    model, batch = make()
    model.train()
    last_linear(model).eval()  # modes need not be the same everywhere
    for part in model.parameters():
        part.grad = torch.full_like(part, 7.0)
    state, random, failed, over = {key: part.clone() for key, part in model.state_dict().items()}, torch.get_rng_state(), 0, False
    with torch.no_grad():
        before = switches(model)
        while not over:
            with fuse(last_linear(model), failed + 1, backward=backward):
                during = switches(model)
                try:
                    path(model, batch)
                    over = True
                except BlownError:
                    failed += 1
                    assert switches(model) == during  # while the frames of the exception are still alive
            assert switches(model) == before
            assert all(torch.equal(part, state[key]) for key, part in model.state_dict().items())
            assert torch.equal(torch.get_rng_state(), random)
    assert failed >= 8
    assert all(part.grad is not None and bool((part.grad == 7).all()) for part in model.parameters())


def test_who_reads_captured_curvature_may_fail() -> None:
    model, batch = rows()
    model.train()
    with torch.no_grad():
        before = switches(model)
        reading = capture(Problem(model, TASK, batch.split(2), generator()))
        next(reading)  # waiting, as it is while the frames of an exception hold it
        assert switches(model) == before
