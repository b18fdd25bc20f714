"""What cannot be scored is refused before any work, with all reasons at once; processes that take turns make up the whole."""

import pytest
import torch
from torch import Tensor, nn

from limbeck.align.taps import Tapped
from limbeck.core.batch import Batch
from limbeck.core.errors import UnsupportedModelError, UsageError
from limbeck.engine.engine import Engine
from limbeck.influence.curvature.conjugate_gradient import ConjugateGradient
from limbeck.influence.curvature.diagonal import Diagonal
from limbeck.influence.curvature.exact import Exact
from limbeck.influence.curvature.identity import Identity
from limbeck.influence.curvature.last_layers import LastLayers
from limbeck.influence.curvature.lbfgs import LBFGS
from limbeck.influence.curvature.lissa import LiSSA
from limbeck.influence.curvature.solver import Problem, Solver
from limbeck.influence.matrix import score_matrix, self_influence, tile_size
from limbeck.influence.scores import score
from limbeck.influence.task import Distillation, Supervised
from limbeck.influence.tokens import score_tokens
from limbeck.losses.labels.ce import CE
from support.makers import FromTheMean, labels, normal
from support.nets import BY_NAME

TASK = Supervised()
WITHOUT_FORWARD = BY_NAME["a function without forward derivative"]


def batch(rows: int = 6) -> Batch:
    return Batch(normal(rows, 5), labels(rows, classes=3), torch.arange(rows))


def net(*between: nn.Module, width: int = 4) -> Tapped:
    torch.manual_seed(0)
    return Tapped(nn.Sequential(nn.Linear(5, width), *between, nn.Tanh(), nn.Linear(width, 3))).double()


def never(solver: Solver, monkeypatch: pytest.MonkeyPatch) -> Solver:
    """The same solver, which must not be put to work on more than the few samples of a trial."""

    def update(self: Solver, problem: Problem, step: int | None = None) -> None:
        raise AssertionError

    monkeypatch.setattr(type(solver), "update", update)
    return solver


def test_data_and_solver_are_told_of_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = batch().map(lambda part: part * torch.nan if part.is_floating_point() else part)
    unlabelled = Batch(batch().inputs, None, torch.arange(6))
    with pytest.raises(UnsupportedModelError) as caught:
        score(net(width=700), TASK, [broken], [unlabelled], never(Exact(), monkeypatch))
    said = str(caught.value)
    for reason in ("training loss must be one finite value", "query loss needs labels", "Exact: the model has 6303 trainable"):
        assert reason in said
    assert said.startswith("score: Tapped cannot be scored: ")
    assert said.count(".") == 1


def test_what_is_no_batch_and_a_net_that_takes_tensors() -> None:
    bare = net().model
    for model, data, said in (
        (bare, [batch()], r"Sequential is called with tensors, not with a Batch; wrap it, Tapped\(model\)"),
        (net(), batch(), "train must be several batches, got a single one"),
        (net(), [[batch().inputs, batch().targets]], "what train holds must be a Batch, got list"),
    ):
        with pytest.raises(UsageError, match=said):
            score(model, TASK, data, [batch()])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "solver",
    [ConjugateGradient(), ConjugateGradient(preconditioner=LiSSA()), LiSSA(), LBFGS(), Exact(), LastLayers(Exact(), count=9)],
    ids=repr,
)
@pytest.mark.filterwarnings("ignore:.*two backward passes")
def test_a_derivative_that_only_the_solver_needs(solver: Solver, monkeypatch: pytest.MonkeyPatch) -> None:
    model = WITHOUT_FORWARD.make()
    with pytest.raises(UnsupportedModelError, match=r"lacks a derivative .* use EKFAC\(\)") as caught:
        score(model, TASK, [WITHOUT_FORWARD.batch()], [WITHOUT_FORWARD.batch()], never(solver, monkeypatch))
    assert str(caught.value).count("lacks a derivative") == 1


def test_a_net_that_cannot_be_taken_sample_by_sample() -> None:
    class Branching(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if bool((x > -1e9).all()) else -x

    with pytest.raises(UnsupportedModelError, match="Diagonal: Tapped cannot be differentiated sample by sample"):
        score(net(Branching()), TASK, [batch()], [batch()], Diagonal())


def test_samples_that_meet_have_no_row_of_their_own() -> None:
    """Batch normalisation without running statistics: the mean query loss has a score, a single query has none."""
    model = net(nn.BatchNorm1d(4, track_running_stats=False))
    assert bool(torch.isfinite(score(model, TASK, [batch()], [batch()], Identity()).phi).all())
    with pytest.raises(UnsupportedModelError, match="the query loss of a sample by itself cannot be had"):
        score_matrix(model, TASK, [batch()], [batch()], Identity())
    with pytest.raises(UnsupportedModelError, match="the training loss of a sample by itself cannot be had"):
        self_influence(model, TASK, [batch()], Identity())

    class Centred(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x - x.mean(0)

    with pytest.raises(UnsupportedModelError, match="depends on the others of its batch"):
        score_matrix(net(Centred()), TASK, [batch()], [batch()], Identity())


def test_tokens_say_all_that_is_against_them() -> None:
    with pytest.raises(UnsupportedModelError, match=r"couples the samples .*; .*logits must be \[B, L, V\], got \[6, 3\]"):
        score_tokens(net(), Distillation(FromTheMean() + CE(), None), [batch()], [batch()])


class Turn:
    """One of two processes, which hears nothing of the other."""

    processes = 2

    def __init__(self, rank: int) -> None:
        self.rank = rank

    def gather(self, values: Tensor) -> Tensor:
        return values


def test_processes_take_turns_at_the_batches() -> None:
    parts, queries = batch(7).split(3), batch(5).split(2)
    first, second = (_of(Turn(rank), parts, queries) for rank in (0, 1))  # type: ignore[arg-type]
    for one, other, all_of_it in zip(first, second, _of(None, parts, queries), strict=True):
        assert torch.equal(one + other, all_of_it)
        assert bool((one == 0).any())
        assert bool((other == 0).any())


def _of(engine: Engine | None, train: list[Batch], queries: list[Batch]) -> list[Tensor]:
    model = net()
    tiles = list(score_matrix(model, TASK, train, queries, tile=2, engine=engine))
    return [
        score(model, TASK, train, queries, engine=engine).phi,
        self_influence(model, TASK, train, engine=engine).value,
        *[tile.phi for tile in tiles],
    ]


def test_a_tile_is_no_larger_than_its_rows_allow() -> None:
    small = nn.Linear(2, 1)  # 3 parameters, 12 bytes a direction
    assert tile_size(small, 2**20) == 2**19 // 12
    assert tile_size(small, 2**20, samples=2**12) == 2**18 // 2**14
    assert tile_size(small, 2**20, samples=2**30) == 1
