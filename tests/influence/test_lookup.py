"""The curvature of embeddings: that of a linear layer of one-hot inputs, whatever the size of the table."""

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from limbeck.align.taps import Tapped
from limbeck.core.batch import Batch
from limbeck.influence.curvature.capture import capture
from limbeck.influence.curvature.covered import blocks
from limbeck.influence.curvature.ekfac import EKFAC
from limbeck.influence.curvature.kfac import KFAC
from limbeck.influence.curvature.kronecker import Kronecker, corrected, estimate
from limbeck.influence.curvature.lookup import row_moments
from limbeck.influence.curvature.solver import Problem
from limbeck.influence.gradients import per_sample_gradients_slow
from limbeck.influence.rows import Rows, Written
from limbeck.influence.task import Supervised
from limbeck.influence.vectors import flatten, trainable, unflatten
from support.makers import generator, labels, normal
from support.nets import Net

ROWS, WIDTH, CLASSES = 6, 4, 3
IDS = torch.tensor([[0, 1, 1], [1, 2, 0], [1, 0, 3], [1, 4, 1], [0, 1, 2], [1, 1, 1], [2, 0, 1], [3, 1, 0]])


def net(table: nn.Module, *, positions: bool = False) -> Tapped:
    """Looks tokens up, adds places where asked to, mixes by a hyperbolic tangent, classifies the mean."""
    torch.manual_seed(0)
    head = nn.Linear(WIDTH, CLASSES)
    places = nn.Embedding(3, WIDTH)

    def run(n: Net, ids: Tensor) -> Tensor:
        tokens = n.table(ids)
        tokens = tokens + n.places(torch.arange(3).unsqueeze(0)) if positions else tokens
        return n.head(torch.tanh(tokens).mean(1))

    parts = {"table": table, "head": head} | ({"places": places} if positions else {})
    return Tapped(Net(run, **parts)).double()


def batch(ids: Tensor = IDS) -> Batch:
    return Batch(ids, labels(len(ids), classes=CLASSES), torch.arange(len(ids)))


def found(model: Tapped, given: Batch) -> Kronecker:
    problem = Problem(model, Supervised(), [given], generator())
    return corrected(estimate(capture(problem)), capture(problem))


def always(monkeypatch: pytest.MonkeyPatch, given: Tensor) -> None:
    """Labels as given wherever labels are drawn; one piece, or each would start anew."""
    monkeypatch.setattr("limbeck.influence.curvature.capture.draw_labels", lambda logits, _: given[: len(logits)])


def solved(solver: EKFAC | KFAC, model: Tapped, name: str, v: Tensor) -> Tensor:
    """The inverse applied to a gradient that moves one parameter."""
    rest = {other: torch.zeros_like(part) for other, part in trainable(model).items()}
    return solver.solve(rest | {name: v}, Problem(model, Supervised(), [batch()], generator()))[name]


class Rowed(nn.Module):
    """One-hot rows, then a plain linear layer, which is what is captured."""

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.inner = nn.Linear(ROWS, WIDTH, bias=False)
        self.inner.weight.data.copy_(table.T)

    def forward(self, ids: Tensor) -> Tensor:
        return self.inner(nn.functional.one_hot(ids, ROWS).to(self.inner.weight))


@pytest.mark.parametrize("solver", [EKFAC, KFAC])
def test_it_is_the_linear_layer_of_one_hot_inputs(solver: type[EKFAC] | type[KFAC], monkeypatch: pytest.MonkeyPatch) -> None:
    """The same inverse, once both are damped alike: the linear layer's eigenvectors are the rows, found by a decomposition."""
    always(monkeypatch, labels(len(IDS), classes=CLASSES, seed=3))
    table = normal(ROWS, WIDTH, seed=1)
    embedding = nn.Embedding(ROWS, WIDTH)
    embedding.weight.data.copy_(table)
    ours, theirs = net(embedding), net(Rowed(table))
    v = normal(ROWS, WIDTH, seed=2)
    v[5] = 0  # never looked up: without damping nothing can be said of it
    q = solved(solver(1e-9), ours, "model.table.weight", v)
    linear = solved(solver(1e-9), theirs, "model.table.inner.weight", v.T)
    assert_close(q, linear.T, rtol=1e-5, atol=1e-8)


def test_moments_are_the_mean_squares_of_explicit_gradients_along_the_basis(monkeypatch: pytest.MonkeyPatch) -> None:
    given = labels(len(IDS), classes=CLASSES, seed=3)
    always(monkeypatch, given)
    model = net(nn.Embedding(ROWS, WIDTH))
    basis = found(model, batch()).layers["model.table"]
    assert basis.inputs is None
    rows = per_sample_gradients_slow(model, Supervised().training_loss, Batch(IDS, given, torch.arange(len(IDS))))
    own = dict(trainable(model))
    tables = torch.stack([unflatten(row, own)["model.table.weight"] for row in rows])
    slow = (tables @ basis.outputs[0]).square().mean(0).T.unsqueeze(0)
    assert_close(basis.values, slow)
    q = Kronecker({"model.table": basis}, {}).solve(own, blocks(model), 0.3)["model.table.weight"]
    trace = slow.mean(1)
    level = trace.square().sum() / trace.sum()  # each row counts by its share of the curvature
    turned = basis.outputs[0].T @ own["model.table.weight"].T / (slow[0] + 0.3 * level)
    assert_close(q, (basis.outputs[0] @ turned).T.detach())


def test_rows_that_nobody_looks_up_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """However large the vocabulary: with one number for a table, damping and size would go by rows that are never seen."""
    always(monkeypatch, labels(len(IDS), classes=CLASSES, seed=3))
    table, v = normal(ROWS, WIDTH, seed=1), normal(ROWS, WIDTH, seed=2)
    each = []
    for more in (0, 500):
        embedding = nn.Embedding(ROWS + more, WIDTH)
        embedding.weight.data[:ROWS].copy_(table)
        wide = torch.cat([v, torch.zeros(more, WIDTH, dtype=v.dtype)])
        each.append(solved(EKFAC(), net(embedding), "model.table.weight", wide)[:ROWS])
    assert_close(each[0], each[1], rtol=1e-9, atol=1e-12)


@pytest.mark.slow
def test_places_that_all_samples_look_up_at_once_are_right_in_the_mean() -> None:
    """[1, L] ids give one gradient for all samples; over draws its square has the mean of the samples' own squares."""
    model = net(nn.Embedding(ROWS, WIDTH), positions=True)
    one = estimate(capture(Problem(model, Supervised(), [batch()], generator())))
    assert {"model.table", "model.places"} <= set(one.layers)
    assert not one.others
    draws = [estimate(capture(Problem(model, Supervised(), [batch()], generator(seed)))) for seed in range(300)]
    shared = torch.stack([draw.layers["model.places"].values.sum() for draw in draws]).mean()
    alone = [
        estimate(capture(Problem(model, Supervised(), batch().split(len(IDS)), generator(seed)))).layers["model.places"]
        for seed in range(300)
    ]
    assert_close(shared, torch.stack([basis.values.sum() for basis in alone]).mean(), rtol=0.1, atol=0)


def test_a_row_seen_in_two_calls_adds_up_first() -> None:
    ids, slopes = IDS.view(len(IDS), 1, -1, 1), normal(len(IDS), 1, 3, WIDTH, seed=5)
    turn = torch.linalg.qr(normal(1, WIDTH, WIDTH, seed=6))[0]
    cut = [(ids[:, :, :1], slopes[:, :, :1]), (ids[:, :, 1:], slopes[:, :, 1:])]
    assert_close(row_moments(cut, turn, ROWS), row_moments([(ids, slopes)], turn, ROWS))


def test_padding_has_no_curvature_and_some_tables_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    always(monkeypatch, labels(len(IDS), classes=CLASSES, seed=3))
    values = found(net(nn.Embedding(ROWS, WIDTH, padding_idx=1)), batch()).layers["model.table"].values
    assert float(values[0, :, 1].abs().max()) == 0
    assert float(values[0, :, 0].min()) > 0
    by_frequency = net(nn.Embedding(ROWS, WIDTH, scale_grad_by_freq=True))
    assert set(blocks(by_frequency)) == {"model.head"}
    assert set(found(by_frequency, batch()).others) == {"model.table.weight"}


def test_energies_checkpoints_and_renewals() -> None:
    """Squares in the eigenbasis are g' q; a checkpoint gives the same inverse; a renewal with all kept moves nothing."""
    model = net(nn.Embedding(ROWS, WIDTH), positions=True)
    problem, given = Problem(model, Supervised(), [batch()], generator()), batch()
    solver, again = EKFAC(keep=1.0), EKFAC(keep=1.0)
    solver.update(problem, 0)
    own = dict(trainable(model))
    slow = per_sample_gradients_slow(model, Supervised().training_loss, given)
    rows = {name: torch.stack([unflatten(row, own)[name] for row in slow]) for name in own}
    products = solver.solve_many(rows, problem)
    wanted = torch.stack([(rows[name] * products[name]).flatten(1).sum(1) for name in own]).sum(0)
    assert_close(solver.energies(Written(rows), problem), wanted)
    assert_close(solver.energies(Rows(model, Supervised().training_loss, given), problem), wanted)
    again.load_state(solver.state())
    v = unflatten(normal(len(flatten(own)), seed=7), own)
    before = flatten(solver.solve(v, problem))
    assert_close(flatten(again.solve(v, problem)), before)
    solver.update(problem, 20)
    assert_close(flatten(solver.solve(v, problem)), before)
    solver.update(problem, 200)
    assert bool(torch.isfinite(flatten(solver.solve(v, problem))).all())
