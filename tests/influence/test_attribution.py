"""Scores, matrix, self-influence and tokens of a finished model equal what explicit per-sample gradients give, on every net."""

from collections.abc import Iterator
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from limbeck.align.taps import Tapped
from limbeck.core.batch import Batch
from limbeck.core.errors import ShapeError, UnsupportedModelError, UsageError
from limbeck.influence import captured
from limbeck.influence import rows as by_row
from limbeck.influence.curvature.conjugate_gradient import ConjugateGradient
from limbeck.influence.curvature.diagonal import Diagonal
from limbeck.influence.curvature.ekfac import EKFAC
from limbeck.influence.curvature.exact import Exact
from limbeck.influence.curvature.identity import Identity
from limbeck.influence.curvature.kfac import KFAC
from limbeck.influence.curvature.last_layers import LastLayers
from limbeck.influence.curvature.solver import Problem, Solver
from limbeck.influence.gradients import per_sample_gradients_slow
from limbeck.influence.matrix import score_matrix, self_influence, tile_size
from limbeck.influence.packing import Packing
from limbeck.influence.prepared import prepare
from limbeck.influence.restoring import modes_restored
from limbeck.influence.rows import OutputRows, Rows, matrix_products
from limbeck.influence.scores import group_sums, score
from limbeck.influence.task import Distillation, Forward, Supervised
from limbeck.influence.tokens import score_tokens
from limbeck.influence.vectors import flatten, trainable, unflatten
from limbeck.losses.labels.ce import CE
from support.makers import FromTheMean, generator, labels, normal
from support.nets import BY_NAME, CASES, TASK, Case

pytestmark = pytest.mark.filterwarnings("ignore:.*two backward passes")
SMALL = [case for case in CASES[:-2] if case.name != "instance norm that tracks"]
each_case = pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
SOLVERS = [Identity(), KFAC(), EKFAC(), Diagonal(), LastLayers(EKFAC())]
SLOW = [pytest.param(solver, marks=pytest.mark.slow) for solver in (Exact(), ConjugateGradient(steps=2))]
each_solver = pytest.mark.parametrize("solver", [*SOLVERS, *SLOW], ids=lambda solver: type(solver).__name__)


class Small:
    """A net with samples of its own and of the queries', all as plain as they come."""

    def __init__(self, rows: int = 13) -> None:
        torch.manual_seed(1)
        layers = (nn.Conv2d(2, 4, 3, groups=2), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 6), nn.Tanh())
        self.model = Tapped(nn.Sequential(*layers, nn.Linear(6, 3))).double()
        self.train = Batch(normal(rows, 2, 4, 4), labels(rows, classes=3), torch.arange(rows) + 50)
        self.queries = Batch(normal(7, 2, 4, 4, seed=1), labels(7, classes=3, seed=1), torch.arange(7) + 900)
        self.task = Supervised()

    def slow(self, solver: Solver, train: list[Batch]) -> Tensor:
        """The matrix by one backward pass per sample and per query; labels of a Fisher matrix are drawn batch by batch."""
        with modes_restored(self.model, training=False):
            problem = Problem(self.model, self.task, train, generator(0))
            solver.update(problem)
            v = per_sample_gradients_slow(self.model, self.task.query_loss, self.queries)
            g = per_sample_gradients_slow(self.model, self.task.training_loss, self.train)
            own = trainable(self.model)
            solved = [solver.solve(unflatten(row, own), problem) for row in v]
            q = torch.stack(
                [flatten({name: one.get(name, torch.zeros_like(part)) for name, part in own.items()}) for one in solved]
            )
        return -q @ g.T


def matrix_of(found: Iterator) -> Tensor:  # type: ignore[type-arg]
    return torch.cat([tile.phi for tile in found])


@each_case
def test_rows_equal_explicit_gradients(case: Case) -> None:
    """Where they are taken at all; on other nets the trial says no."""
    model, batch = case.make().eval(), case.batch()
    way = prepare(model, TASK, [batch], [batch], Identity()).way
    explicit = per_sample_gradients_slow(model, TASK.training_loss, batch)
    if way.way != "captured":
        assert way.why
        return
    rows = Rows(model, TASK.training_loss, batch)
    written = rows.whole()
    assert_close(torch.cat([part.flatten(1) for part in written.values()], 1), explicit)
    for count in (1, 40):  # both orders of multiplication
        q = torch.randn(count, explicit.shape[1], generator=generator(3), dtype=torch.float64)
        cut = dict(zip(written, q.split([part[0].numel() for part in written.values()], 1), strict=True))
        many = {name: part.view(count, *written[name].shape[1:]) for name, part in cut.items()}
        assert_close(rows.products(many.get), q @ explicit.T)
    found = OutputRows(model, batch)
    some = range(0, found.outputs, 2 if found.outputs == 3 else 13)
    one_by_one = [per_sample_gradients_slow(model, partial(logit, number), batch) for number in some]
    assert_close(found.matrix.view(len(batch), found.outputs, -1)[:, some], torch.stack(one_by_one, 1))


def logit(number: int, student: Forward, batch: Batch) -> Tensor:
    return student(batch).logits.flatten(1)[:, number]


@each_case
@pytest.mark.parametrize(("together", "positions"), [(64, 100), (64, 0), pytest.param(1, 0, marks=pytest.mark.slow)])
def test_matrix_and_scores_on_every_net_also_sample_by_sample(
    case: Case, together: int, positions: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, batch = case.make(), case.batch()
    with modes_restored(model, training=False):
        g, v = (per_sample_gradients_slow(model, loss, batch) for loss in (TASK.training_loss, TASK.query_loss))
    monkeypatch.setattr(by_row, "POSITIONS", positions)
    for where, name in ((captured, "FIRST"), (captured, "PIECE"), (by_row, "FIRST"), (by_row, "HELD")):
        monkeypatch.setattr(where, name, together)
    (tile,) = score_matrix(model, TASK, [batch], [batch], Identity())
    assert_close(tile.phi, -v @ g.T)
    assert_close(score(model, TASK, [batch], [batch], Identity()).phi, -g @ v.mean(0))
    assert_close(self_influence(model, TASK, [batch], Identity()).value, g.square().sum(1))
    assert [m.training for m in model.modules()] == [m.training for m in case.make().modules()]


@each_solver
def test_matrix_equals_its_slow_twin(solver: Solver) -> None:
    small = Small()
    for train, queries, tile in (([small.train], [small.queries], None), (small.train.split(4), small.queries.split(3), 2)):
        found = list(score_matrix(small.model, small.task, train, queries, solver, tile=tile))
        assert torch.equal(torch.cat([one.queries for one in found]), small.queries.index)
        assert all(torch.equal(one.index, small.train.index) for one in found)
        assert_close(torch.cat([one.phi for one in found]), small.slow(solver, train), rtol=1e-7, atol=1e-9)
    with modes_restored(small.model, training=False):
        assert_close(torch.cat([one.query_loss for one in found]), small.task.query_loss(small.model, small.queries).detach())


@pytest.mark.parametrize("solver", [Identity(), KFAC(), EKFAC(), Diagonal(), Exact()], ids=lambda solver: type(solver).__name__)
def test_the_mean_over_queries_is_the_score(solver: Solver) -> None:
    small = Small()
    matrix = matrix_of(score_matrix(small.model, small.task, [small.train], [small.queries], solver))
    assert_close(matrix.mean(0), score(small.model, small.task, [small.train], [small.queries], solver).phi)


@pytest.mark.parametrize("solver", [*SOLVERS[:4], SLOW[0]], ids=lambda solver: type(solver).__name__)
def test_self_influence_is_the_diagonal(solver: Solver) -> None:
    small = Small()
    small.queries = small.train
    for train in ([small.train], small.train.split(4)):
        found = self_influence(small.model, small.task, train, solver)
        assert torch.equal(found.index, small.train.index)
        assert_close(found.value, -small.slow(solver, train).diagonal(), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", ["tokens", "a module used twice", "a frozen layer", "LSTM", "encoder layer, eval mode"])
@pytest.mark.parametrize("solver", [KFAC(), EKFAC()], ids=repr)
def test_energies_where_layers_are_shared_frozen_or_unknown(name: str, solver: Solver) -> None:
    """A tied embedding, two calls of one layer, no gradient, or no captured layer at all: as if solved for every sample."""
    model, batch = BY_NAME[name].make().eval(), BY_NAME[name].batch()
    found = self_influence(model, TASK, [batch], solver)
    own, problem = trainable(model), Problem(model, TASK, [batch], generator(0))
    solver.update(problem)
    rows = [unflatten(row, own) for row in per_sample_gradients_slow(model, TASK.training_loss, batch)]
    wanted = [flatten(solver.solve(row, problem)) @ flatten(row) for row in rows]
    assert_close(found.value, torch.stack(wanted), rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize(("groups", "positions"), [(1, 1), (1, 5), (3, 2)])
@pytest.mark.parametrize("k", [1, 30])
@pytest.mark.parametrize(("outputs", "inputs"), [(3, 8), (8, 3)])
def test_products_of_many_directions(groups: int, positions: int, k: int, outputs: int, inputs: int) -> None:
    a, d = normal(6, groups, positions, inputs), normal(6, groups, positions, outputs, seed=1)
    q = normal(k, groups, outputs, inputs, seed=2)
    assert_close(matrix_products(q, a, d), torch.einsum("kgoi,bgti,bgto->kb", q, a, d))


def test_directions_in_fewer_bytes() -> None:
    """Close to the full ones, and exact where nothing is lost: the rank of a linear layer's mean of few samples."""
    small = Small()
    whole = matrix_of(score_matrix(small.model, small.task, [small.train], [small.queries]))
    for keep, error in (("float16", 2e-3), ("int8", 3e-2), ("rank:1", 0.7), ("rank:3", 0.3)):
        kept = matrix_of(score_matrix(small.model, small.task, [small.train], [small.queries], keep=keep))
        assert 0 < float((kept - whole).norm() / whole.norm()) < error, keep
    linear = Tapped(nn.Linear(9, 7)).double()
    train, queries = (Batch(normal(8, 9, seed=seed), labels(8, classes=7), torch.arange(8)) for seed in (1, 2))
    plain, low = (
        matrix_of(score_matrix(linear, Supervised(), [train], [queries], Identity(), keep=k)) for k in ("full", "rank:1")
    )
    assert_close(low, plain)  # one sample's gradient of a linear layer is an outer product
    sizes = [tile_size(nn.Linear(300, 200), 2**22, Packing(how)) for how in ("full", "float16", "int8", "rank:4")]
    assert sizes == [2**21 // 240_800, 2**21 // (2 * 60_200 + 8), 2**21 // (60_200 + 8), 2**21 // (4 * (4 * 500 + 200))]
    for wrong in ("rank", "rank:0", "int4", "full:2", ""):
        with pytest.raises(UsageError, match=r"keep must be|rank must be"):
            Packing(wrong)


def test_groups_add_up() -> None:
    phi, groups = normal(3, 5), torch.tensor([9, 2, 9, 2, 4])
    names, sums = group_sums(phi, groups)
    assert names.tolist() == [2, 4, 9]
    assert_close(sums, torch.stack([phi[:, 1] + phi[:, 3], phi[:, 4], phi[:, 0] + phi[:, 2]], 1))
    with pytest.raises(ShapeError, match="one for each sample"):
        group_sums(phi, groups[:2])


def test_token_scores_add_up_to_the_sample_and_leave_out_what_does_not_count() -> None:
    case = BY_NAME["tokens"]
    model, batch = case.make(), case.batch()
    cut = Batch(batch.inputs[1:, :4], batch.targets[1:, :4], batch.index[1:], batch.mask[1:, :4], {})  # type: ignore[index]
    task = Supervised()
    found = score_tokens(model, task, [batch, cut], [batch])
    assert found.phi.shape == (7, 6)
    assert_close(found.phi.sum(1), score(model, task, [batch, cut], [batch]).phi)
    assert batch.mask is not None
    assert bool((found.phi[:4][~batch.mask] == 0).all())
    assert bool((found.phi[4:, 4:] == 0).all())
    # the gradient of one token's share, by itself
    with modes_restored(model, training=False):
        q, _ = prepare(model, task, [batch, cut], [batch]).direction()
    alone = Batch(batch.inputs, batch.targets, batch.index, batch.mask)

    def first_token(student: Tapped, part: Batch) -> Tensor:
        assert part.targets is not None
        assert part.mask is not None
        losses = nn.functional.cross_entropy(student(part).logits.transpose(1, 2), part.targets, reduction="none")
        return losses[:, 0] / part.mask.sum(1)

    with modes_restored(model, training=False):
        g = per_sample_gradients_slow(model, first_token, alone)  # type: ignore[arg-type]
    assert_close(found.phi[:4, 0], -g @ flatten(q))
    with pytest.raises(UnsupportedModelError, match=r"must be \[B, L, V\]"):
        score_tokens(Small().model, task, [Small().train], [Small().queries])


class Stream:
    """Batches that are made anew whenever they are asked for; counts how many are alive."""

    def __init__(self, whole: Batch, parts: int) -> None:
        self.whole, self.parts, self.passes = whole, parts, 0

    def __iter__(self) -> Iterator[Batch]:
        self.passes += 1
        yield from self.whole.split(self.parts)


@each_solver
def test_what_can_be_read_again_will_do(solver: Solver) -> None:
    small = Small()
    stream = Stream(small.train, 4)
    found = score(small.model, small.task, stream, Stream(small.queries, 2), solver)
    listed = score(small.model, small.task, small.train.split(4), small.queries.split(2), solver)
    assert torch.equal(found.phi, listed.phi)
    assert torch.equal(found.index, small.train.index)
    assert stream.passes > 1
    with pytest.raises(UsageError, match="can be read once only"):
        score(small.model, small.task, iter(small.train.split(4)), [small.queries], solver)


def test_scores_do_not_depend_on_how_the_samples_are_cut() -> None:
    small = Small(300)
    whole = score(small.model, small.task, [small.train], [small.queries], Identity())
    assert whole.way == "captured"
    for parts in (2, 7, 300):
        assert_close(score(small.model, small.task, small.train.split(parts), [small.queries], Identity()).phi, whole.phi)


def test_a_loss_that_couples_samples_goes_another_way() -> None:
    small = Small()
    task = Distillation(FromTheMean() + CE(), None)
    with modes_restored(small.model, training=False):
        g = per_sample_gradients_slow(small.model, task.training_loss, small.train)
        v = per_sample_gradients_slow(small.model, task.query_loss, small.queries)
    assert_close(matrix_of(score_matrix(small.model, task, [small.train], [small.queries], Identity(), tile=3)), -v @ g.T)
    assert_close(self_influence(small.model, task, [small.train], Identity()).value, g.square().sum(1))
    with pytest.raises(UnsupportedModelError, match="couples"):
        score_tokens(small.model, task, [small.train], [small.queries])


def test_all_reasons_are_said_at_once_before_any_work() -> None:
    small = Small()
    nothing = Batch(small.queries.inputs, None, small.queries.index)
    broken = small.train.map(lambda part: part * torch.nan if part.is_floating_point() else part)

    class Never(Identity):  # type: ignore[misc]
        def update(self, problem: Problem, step: int | None = None) -> None:
            raise AssertionError

    with pytest.raises(UnsupportedModelError) as caught:
        score(small.model, small.task, [broken], [nothing], Never())
    assert "training loss must be one finite value per sample, got [13] with 13" in str(caught.value)
    assert "needs labels" in str(caught.value)
    small.model.requires_grad_(False)
    with pytest.raises(UnsupportedModelError, match=r"no parameter is trained; .*needs labels"):
        score_matrix(small.model, small.task, [small.train], [nothing], Never())
