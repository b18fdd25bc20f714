"""K-FAC and EK-FAC: exact where the Fisher matrix is truly Kronecker, and built of the right factors where it is not.

Over 300 lines: both inverses share their factors, and so their tests.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from limbeck.align.taps import Tapped
from limbeck.core.batch import Batch
from limbeck.core.errors import RunError
from limbeck.influence.curvature import basis as bases
from limbeck.influence.curvature.basis import Basis
from limbeck.influence.curvature.capture import capture
from limbeck.influence.curvature.covered import blocks
from limbeck.influence.curvature.ekfac import EKFAC
from limbeck.influence.curvature.exact import Exact
from limbeck.influence.curvature.kfac import KFAC
from limbeck.influence.curvature.kronecker import Kronecker, corrected, estimate, factors
from limbeck.influence.curvature.products import dense
from limbeck.influence.curvature.solver import Problem, Solver
from limbeck.influence.gradients import per_sample_gradients_slow
from limbeck.influence.task import Supervised
from limbeck.influence.vectors import Vector, flatten, trainable, unflatten
from support.labels_in_turn import deal
from support.makers import generator, labels, normal
from support.nets import BY_NAME, Net, convolutional, mlp

CLASSES = 3


def nought(layer: nn.Module) -> Tapped:
    """Parameters 0: every class equally likely for every input, so that output gradients do not depend on inputs."""
    for part in layer.parameters():
        nn.init.zeros_(part)
    return Tapped(layer).double()


def direction(model: nn.Module) -> Vector:
    own = dict(trainable(model))
    return unflatten(normal(len(flatten(own)), seed=7), own)


def matrix_of(solver: Solver, problem: Problem, damping: float) -> Tensor:
    """The curvature that a solver of one layer stands for, [P, P], from its inverse; its damping is relative."""
    own = dict(trainable(problem.model))
    units = torch.eye(len(flatten(own)), dtype=torch.float64)
    solver.update(problem)
    damped = torch.linalg.inv(torch.stack([flatten(solver.solve(unflatten(unit, own), problem)) for unit in units], 1))
    level = damped.trace() / len(units) / (1 + damping)
    return damped - damping * level * units


class Positions(nn.Module):
    """A convolution whose every output position is a classified token: [B, 2, L] -> [B, L, classes]."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(2, CLASSES, 3, padding=1)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.conv(inputs).transpose(1, 2)


@pytest.mark.parametrize("solver", [KFAC(0.1), EKFAC(0.1)], ids=repr)
@pytest.mark.parametrize("bias", [True, False])
def test_exact_for_a_linear_layer_whose_gradients_do_not_depend_on_inputs(
    monkeypatch: pytest.MonkeyPatch, solver: Solver, bias: bool
) -> None:
    model = nought(nn.Linear(4, CLASSES, bias=bias))
    problem = Problem(model, Supervised(), [deal(monkeypatch, normal(6, 4), CLASSES)], generator())
    v = direction(model)
    assert_close(matrix_of(solver, problem, 0.1), dense(problem, "gauss_newton"), rtol=1e-9, atol=1e-12)
    assert_close(flatten(solver.solve(v, problem)), flatten(Exact(0.1).solve(v, problem)), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("solver", [KFAC(0.1), EKFAC(0.1)], ids=repr)
@pytest.mark.parametrize(
    "norm, inputs",
    [
        (nn.LayerNorm(4), normal(6, 4)),
        (nn.LayerNorm(4, bias=False), normal(6, 3, 4)),
        (nn.GroupNorm(2, 4), normal(6, 4, 3)),
        (nn.BatchNorm1d(4).eval(), normal(6, 4, 3)),
    ],
    ids=["layer", "layer without shift", "group", "batch"],
)
def test_exact_for_gain_and_shift(monkeypatch: pytest.MonkeyPatch, solver: Solver, norm: nn.Module, inputs: Tensor) -> None:
    """At 0 every class is equally likely; how gradients depend on inputs does not matter, since the matrix has no structure."""
    head = normal(4, CLASSES, seed=3)
    channels = 1 if isinstance(norm, nn.GroupNorm | nn.BatchNorm1d) else -1
    pooled = Net(lambda net, x: net.norm(x).movedim(channels, -1).reshape(len(x), -1, 4).sum(1) @ head, norm=norm)
    model = nought(pooled)
    problem = Problem(model, Supervised(), [deal(monkeypatch, inputs, CLASSES)], generator())
    wanted = dense(problem, "gauss_newton")
    assert_close(matrix_of(solver, problem, 0.1), wanted, rtol=1e-9, atol=1e-12)
    rest = wanted - wanted.diagonal().diag()
    assert rest.abs().max() > 1e-3  # else one number per parameter would do


@pytest.mark.parametrize("solver", [KFAC(0.1), EKFAC(0.1)], ids=repr)
def test_exact_for_a_convolution_over_independent_positions(monkeypatch: pytest.MonkeyPatch, solver: Solver) -> None:
    """Positions are counted: without the count K-FAC would be off by their number. Token losses are means, Gauss-Newton too."""
    model = nought(Positions())
    problem = Problem(model, Supervised(), [deal(monkeypatch, normal(4, 2, 3), CLASSES, positions=3)], generator())
    assert_close(matrix_of(solver, problem, 0.1), dense(problem, "gauss_newton"), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("solver", [KFAC(0.1), EKFAC(0.1)], ids=repr)
def test_exact_for_tokens_of_which_some_do_not_count(monkeypatch: pytest.MonkeyPatch, solver: Solver) -> None:
    model = nought(nn.Linear(2, CLASSES))
    whole = deal(monkeypatch, normal(2, 3, 2), CLASSES, positions=3)
    mask = torch.tensor([[True, False, True], [False, True, True]]).repeat_interleave(27, 0)
    soiled = torch.where(mask.unsqueeze(2), whole.inputs, 1e3)  # padding may be anything
    problem = Problem(model, Supervised(), [Batch(soiled, whole.targets, whole.index, mask)], generator())
    assert_close(matrix_of(solver, problem, 0.1), dense(problem, "gauss_newton"), rtol=1e-8, atol=1e-12)


def test_samples_of_few_tokens_and_of_many_have_their_share(monkeypatch: pytest.MonkeyPatch) -> None:
    """EK-FAC keeps the trace of Gauss-Newton, of which every sample gives the mean over its tokens."""
    model = nought(nn.Linear(2, CLASSES))
    whole = deal(monkeypatch, normal(2, 3, 2), CLASSES, positions=3)
    mask = torch.tensor([[True, False, False], [True, True, True]]).repeat_interleave(27, 0)
    problem = Problem(model, Supervised(), [Batch(whole.inputs, whole.targets, whole.index, mask)], generator())
    assert_close(matrix_of(EKFAC(0.1), problem, 0.1).trace(), dense(problem, "gauss_newton").trace())


def test_ekfac_mends_correlated_positions_and_kfac_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a constant image, pooled, all positions have one gradient: K-FAC's factors miss their number, EK-FAC measures it."""
    model = nought(nn.Sequential(nn.Conv2d(1, CLASSES, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    inputs = normal(5, 1, 1, 1).expand(5, 1, 2, 2)
    problem = Problem(model, Supervised(), [deal(monkeypatch, inputs, CLASSES)], generator())
    wanted = dense(problem, "gauss_newton")
    assert_close(matrix_of(EKFAC(0.1), problem, 0.1), wanted, rtol=1e-9, atol=1e-12)
    assert_close(matrix_of(KFAC(0.1), problem, 0.1), wanted / 4, rtol=1e-9, atol=1e-12)


def by_hand(model: Tapped, batch: Batch, seed: int = 0) -> tuple[Kronecker, list[Tensor]]:
    """K-FAC's estimate, and each block's factors A (x) S from the same draw, put together by hand."""
    problem = Problem(model, Supervised(), [batch], generator(seed))
    factors = []
    for _, captured in capture(Problem(model, Supervised(), [batch], generator(seed))):
        for calls in captured.pairs.values():
            a, d = (torch.cat([call[i].flatten(1, 2) if call[i].shape[1] == 1 else call[i] for call in calls], 1) for i in (0, 1))
            factors.append((a, d))
    estimated = estimate(capture(problem))
    return estimated, [
        torch.kron(torch.einsum("bto,btp->op", d, d) / len(batch), torch.einsum("bti,btj->ij", a, a) / (a.shape[0] * a.shape[1]))
        for a, d in factors
    ]


def test_the_pieces_that_a_batch_is_captured_in_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("limbeck.influence.curvature.capture.draw_labels", lambda logits, _: logits.argmax(-1))
    case = BY_NAME["group norm"]
    model, batch = case.make(), case.batch(rows=70)
    once, pieces = (estimate(capture(Problem(model, Supervised(), parts, generator()))) for parts in ([batch], batch.split(9)))
    monkeypatch.setattr("limbeck.influence.curvature.capture.ROWS", 70)
    whole = estimate(capture(Problem(model, Supervised(), [batch], generator())))
    v, where = direction(model), blocks(model)
    for found in (once, pieces):
        for block in where.values():
            assert_close(
                found.solve(v, where, 0.1)[block.weight], whole.solve(v, where, 0.1)[block.weight], rtol=1e-8, atol=1e-10
            )


def test_the_inverse_is_that_of_the_damped_kronecker_product_layer_by_layer() -> None:
    model = Tapped(mlp()).double()
    batch = Batch(normal(9, 5), labels(9, classes=3), torch.arange(9))
    estimated, products = by_hand(model, batch)
    v, where = direction(model), blocks(model)
    q = estimated.solve(v, where, 0.2)
    for (name, block), matrix in zip(where.items(), products, strict=True):
        assert name in estimated.layers
        damped = matrix + 0.2 * matrix.trace() / len(matrix) * torch.eye(len(matrix), dtype=torch.float64)
        assert_close(block.matrix(q).flatten(), torch.linalg.solve(damped, block.matrix(v).flatten()), rtol=1e-8, atol=1e-10)


def test_ekfac_keeps_the_trace_of_the_fisher_matrix() -> None:
    """Whatever the basis, second moments add up to the mean squared gradient: nothing of the curvature is lost or made up."""
    model = Tapped(convolutional(nn.GroupNorm(2, 4))).double()
    batch = Batch(normal(5, 2, 8, 8), labels(5, classes=3), torch.arange(5))
    problem = Problem(model, Supervised(), [batch], generator(3))
    drawn = [captured for _, captured in capture(Problem(model, Supervised(), [batch], generator(3)))]
    calls = drawn[0].pairs
    ours = corrected(estimate(capture(problem)), [(blocks(model), drawn[0])])
    assert set(ours.layers) == {f"model.{n}" for n in (0, 1, 3, 4, 8)}
    for name, basis in ours.layers.items():
        ((a, d),) = calls[name]
        assert_close(basis.values.sum(), (d.transpose(2, 3) @ a).square().sum() / 5)


@pytest.mark.parametrize("positions, inputs, outputs", [(1, 7, 6), (3, 7, 6), (40, 3, 2)], ids=["one", "turned", "written"])
@pytest.mark.parametrize("calls", [1, 2])
@pytest.mark.parametrize("plain", [(), ("inputs",), ("outputs",), ("inputs", "outputs")], ids=["both", "A", "S", "A and S"])
def test_second_moments_and_energies_in_either_order_of_multiplication(
    positions: int, inputs: int, outputs: int, calls: int, plain: tuple[str, ...]
) -> None:
    """With eigenvectors on both sides, or a diagonal in the place of A, of S, of both."""
    sides = {"inputs": inputs, "outputs": outputs}
    where = [
        torch.eye(size).double().repeat(2, 1, 1) if name in plain else torch.linalg.qr(normal(2, size, size, seed=size))[0]
        for name, size in sides.items()
    ]
    kept = {name: None if name in plain else vectors for name, vectors in zip(sides, where, strict=True)}
    basis = Basis(**kept, values=normal(2, outputs, inputs, seed=9).square())
    pairs = [(normal(5, 2, positions, inputs, seed=k), normal(5, 2, positions, outputs, seed=8 + k)) for k in range(calls)]
    rows = torch.stack([torch.einsum("bgto,bgti->bgoi", d, a) for a, d in pairs]).sum(0)
    slow = torch.einsum("gpo,bgpj,gji->bgoi", where[1], rows, where[0]).square()
    assert_close(basis.moments(pairs), slow.sum(0))
    means = [axis for axis, name in ((2, "inputs"), (1, "outputs")) if name not in plain]
    level = basis.values.mean(means) if means else basis.values  # what a diagonal holds counts by its share
    level = level.square().sum() / level.sum() if plain else level.mean()
    assert_close(basis.level, level)
    assert_close(basis.energies(pairs, 0.1), (slow / (basis.values + 0.1 * level)).flatten(1).sum(1))
    turn = torch.stack([torch.kron(s.contiguous(), a.contiguous()) for a, s in zip(*where, strict=True)])
    dense = turn @ torch.diag_embed(basis.values.flatten(1) + 0.1 * level) @ turn.mT
    assert_close(basis.inverse(rows[0], 0.1).flatten(1), torch.linalg.solve(dense, rows[0].flatten(1)))


@pytest.mark.parametrize("wide", [5, 3], ids=["inputs", "both"])
def test_the_factor_of_a_wide_side_is_its_diagonal(wide: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A head of a large vocabulary would have a matrix of vocabulary x vocabulary numbers."""
    monkeypatch.setattr("limbeck.influence.curvature.capture.draw_labels", lambda logits, _: logits.argmax(-1))
    model = Tapped(nn.Linear(5, 4)).double()  # 6 inputs with the bias
    batch = Batch(normal(9, 5), labels(9, classes=4), torch.arange(9))
    problem = Problem(model, Supervised(), [batch], generator())
    whole = factors(capture(problem))
    monkeypatch.setattr("limbeck.influence.curvature.kronecker.WIDE", wide)
    found = factors(capture(problem))
    assert_close(found.inputs["model"], whole.inputs["model"].diagonal(dim1=1, dim2=2))
    ours, theirs = found.outputs["model"], whole.outputs["model"]
    assert_close(ours, theirs.diagonal(dim1=1, dim2=2) if wide < 4 else theirs)
    kfac = found.decomposed()
    again = Kronecker.from_state(kfac.state())
    assert again is not None
    assert_close(again.state(), kfac.state())
    basis = corrected(kfac, capture(problem)).layers["model"]
    assert (basis.inputs is None, basis.outputs is None) == (True, wide < 4)
    given = Batch(batch.inputs, model.model(batch.inputs).argmax(1), batch.index)
    rows = per_sample_gradients_slow(model, Supervised().training_loss, given)
    own = trainable(model)
    slopes = [unflatten(row, own) for row in rows]
    matrices = torch.stack([torch.cat([part["model.weight"], part["model.bias"].unsqueeze(1)], 1) for part in slopes])
    turned = matrices if basis.outputs is None else basis.outputs[0].T @ matrices
    assert_close(basis.values[0], turned.square().mean(0))
    assert_close(kfac.turned(found).layers["model"].values, kfac.layers["model"].values, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("trained", [True, False], ids=["trained", "frozen"])
def test_a_large_vocabulary_goes_a_few_samples_at_a_time(trained: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Tapped(nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 7).requires_grad_(trained))).double()
    batch = Batch(labels(12, classes=7).view(4, 3), labels(12, classes=7).view(4, 3), torch.arange(4))
    problem = Problem(model, Supervised(), [batch], generator())
    (one,) = (part for _, part in capture(problem))
    monkeypatch.setattr("limbeck.influence.curvature.capture.LOGITS", 2 * 3 * 7)
    assert [part.count for _, part in capture(problem)] == [2, 2]
    assert one.count == 4


def test_a_turned_basis_keeps_what_the_moments_stand_for() -> None:
    """The moments are the diagonal, along the new eigenvectors, of the matrix that the old ones stood for."""
    model, other = (Tapped(mlp()).double() for _ in range(2))
    batch = Batch(normal(9, 5), labels(9, classes=3), torch.arange(9))
    old, new = (Problem(net, Supervised(), [batch], generator()) for net in (model, other))
    before = corrected(estimate(capture(old)), capture(old))
    after = before.turned(factors(capture(new)))
    for name, basis in after.layers.items():
        was = before.layers[name]
        turn, came = (torch.kron(part.outputs[0], part.inputs[0]) for part in (basis, was))
        stood_for = came @ was.values.flatten().diag() @ came.T
        assert_close(basis.values.flatten(), (turn.T @ stood_for @ turn).diagonal(), rtol=1e-9, atol=1e-12)
        assert_close(basis.values.mean(), was.values.mean())


def test_a_renewal_is_a_running_mean_in_the_present_basis(monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand from the first estimate and the renewal's own; nothing kept and the basis turned, it is a fresh estimate."""
    monkeypatch.setattr("limbeck.influence.curvature.capture.draw_labels", lambda logits, _: logits.argmax(-1))
    case = BY_NAME["a bare parameter"]
    model = case.make()
    first, then = (Problem(model, Supervised(), [case.batch(rows=rows)], generator()) for rows in (12, 5))
    running, anew, fresh = EKFAC(keep=0.75), EKFAC(keep=0, basis=1), EKFAC()
    for solver in (running, anew):
        solver.update(first, 0)
    start = running.state()
    found = Kronecker.from_state(start)
    assert found is not None
    seen, own = corrected(found, capture(then)).layers, factors(capture(then))
    for solver in (running, anew):
        solver.update(then, 20)
    fresh.update(then)
    state = running.state()
    for name in found.layers:
        assert_close(state[f"values/{name}"], 0.75 * start[f"values/{name}"] + 0.25 * seen[name].values)
        assert_close(state[f"a/{name}"], 0.75 * start[f"a/{name}"] + 0.25 * own.inputs[name])
        assert_close(state[f"s/{name}"], 0.75 * start[f"s/{name}"] + 0.25 * own.outputs[name])
    for name, level in own.others.items():
        assert_close(state[f"others/{name}"], 0.75 * start[f"others/{name}"] + 0.25 * level)
    v = direction(model)
    assert_close(flatten(anew.solve(v, then)), flatten(fresh.solve(v, then)))


def test_a_renewal_looks_at_so_many_positions_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawn evenly, so that the mean over draws is the mean over all; a layer with no more positions gives all."""
    monkeypatch.setattr("limbeck.influence.curvature.kronecker.POSITIONS", 200)
    model = Tapped(convolutional(nn.GroupNorm(2, 4))).double()
    problem = Problem(model, Supervised(), [Batch(normal(60, 2, 8, 8), labels(60, classes=3), torch.arange(60))], generator())
    seen = list(capture(problem))
    whole, draws = factors(seen), [factors(seen, generator(seed)) for seed in range(40)]
    for name, part in whole.inputs.items():
        mean = torch.stack([one.inputs[name] for one in draws]).mean(0)
        assert_close(mean, part, rtol=0, atol=0.1 * float(part.diagonal(dim1=1, dim2=2).mean()))
        assert torch.equal(draws[0].inputs[name], part) == (name in {"model.1", "model.8"})  # one a sample


def test_the_empirical_fisher_is_that_of_the_training_loss() -> None:
    """Its trace is the mean squared norm of the gradients that a training step has."""
    model = Tapped(nn.Linear(4, CLASSES)).double()
    batch = Batch(normal(7, 4), labels(7, classes=3), torch.arange(7))
    solver, problem = EKFAC(fisher="empirical"), Problem(model, Supervised(), [batch], generator())
    rows = per_sample_gradients_slow(model, Supervised().training_loss, batch)
    assert_close(matrix_of(solver, problem, 0.1).trace(), rows.square().sum() / 7)


def test_captured_factors_give_the_per_sample_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    """The products of inputs and output gradients are the gradients: stride, dilation, groups, padding, shared modules."""
    for net in (
        convolutional(nn.GroupNorm(2, 4)),
        BY_NAME["a module used twice"].build(),
        BY_NAME["a rectifier in place"].build(),
    ):
        model = Tapped(net).double()
        shape = (2, 8, 8) if isinstance(net[0] if isinstance(net, nn.Sequential) else net, nn.Conv2d) else (5,)
        given = labels(4, classes=3)
        batch = Batch(normal(4, *shape), given, torch.arange(4))
        monkeypatch.setattr("limbeck.influence.curvature.capture.draw_labels", lambda _l, _g, given=given: given)
        rows = per_sample_gradients_slow(model, Supervised().training_loss, batch)
        ((where, captured),) = list(capture(Problem(model, Supervised(), [batch], generator())))
        for name, block in where.items():
            built = sum(d.transpose(2, 3) @ a for a, d in captured.pairs[name])
            for sample in range(4):
                wanted = block.matrix(unflatten(rows[sample], dict(trainable(model))))
                assert_close(torch.as_tensor(built)[sample], wanted, rtol=1e-9, atol=1e-12)


def test_a_grouped_convolution_is_its_groups_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    grouped = nn.Conv2d(4, 6, 3, groups=2, padding=1).double()
    first, second = nn.Conv2d(2, 3, 3, padding=1).double(), nn.Conv2d(2, 3, 3, padding=1).double()
    for number, part in enumerate((first, second)):
        part.weight.data.copy_(grouped.weight[3 * number : 3 * number + 3])
        assert part.bias is not None
        assert grouped.bias is not None
        part.bias.data.copy_(grouped.bias[3 * number : 3 * number + 3])
    one = Tapped(Net(lambda n, x: n.conv(x).square().mean((2, 3)), conv=grouped))
    two = Tapped(Net(lambda n, x: torch.cat([n.a(x[:, :2]), n.b(x[:, 2:])], 1).square().mean((2, 3)), a=first, b=second))
    given = labels(5, classes=6)
    monkeypatch.setattr("limbeck.influence.curvature.capture.draw_labels", lambda _l, _g: given)
    batch = Batch(normal(5, 4, 6, 6), given, torch.arange(5))
    ours, theirs = (
        corrected(estimate(capture(p)), capture(p)) for p in (Problem(m, Supervised(), [batch], generator()) for m in (one, two))
    )
    for number, name in enumerate(("model.a", "model.b")):
        assert_close(ours.layers["model.conv"].values[number], theirs.layers[name].values[0], rtol=1e-9, atol=1e-12)


def test_what_no_layer_covers_gets_its_mean_squared_gradient() -> None:
    """One number per tensor, right on average over drawn labels; attention's packed projection is such a tensor."""
    case, name = BY_NAME["a bare parameter"], "model.part.scale"
    model = case.make()
    problems = [Problem(model, Supervised(), [case.batch(rows=12)], generator(seed)) for seed in range(60)]
    levels = [estimate(capture(problem)).others for problem in problems]
    assert set(levels[0]) == {name}
    diagonal = unflatten(dense(problems[0], "gauss_newton").diagonal(), dict(trainable(model)))
    assert_close(torch.stack([level[name] for level in levels]).mean(), diagonal[name].mean(), rtol=0.2, atol=0)
    v = direction(model)
    found = estimate(capture(problems[0]))
    assert_close(found.solve(v, blocks(model), 0.5)[name], v[name] / (1.5 * found.others[name]))
    attention = BY_NAME["attention, train mode"]
    others = estimate(capture(Problem(attention.make(), Supervised(), [attention.batch()], generator()))).others
    assert {"model.part.in_proj_weight", "model.part.out_proj.weight"} <= set(others)


def test_frozen_tied_and_keyword_calls() -> None:
    frozen = BY_NAME["a frozen layer"].make()
    assert list(blocks(frozen)) == ["model.2"]
    tied = BY_NAME["tokens"].make()
    assert blocks(tied)["model.head"].weight == "model.embedding.weight"
    named = Tapped(Net(lambda net, x: net.head(input=torch.tanh(net.body(input=x))), body=nn.Linear(5, 4), head=nn.Linear(4, 3)))
    problem = Problem(named, Supervised(), [BY_NAME["mlp"].batch(torch.float32)], generator())
    assert set(estimate(capture(problem)).layers) == {"model.body", "model.head"}


def test_positions_as_rows_are_positions_of_their_samples() -> None:
    """A net that lays the tokens of all samples side by side has the curvature of one that keeps them apart."""

    def found(rows: Callable[[Tensor], Tensor]) -> Tensor:
        torch.manual_seed(0)
        run = lambda net, x: net.part(rows(x)).unflatten(0, (len(x), -1)).flatten(1, -2).mean(1)  # noqa: E731
        model = Tapped(Net(run, part=nn.Sequential(nn.Linear(5, 4), nn.LayerNorm(4), nn.Tanh(), nn.Linear(4, CLASSES)))).double()
        batch = Batch(normal(6, 4, 5), labels(6, classes=CLASSES), torch.arange(6))
        return flatten(EKFAC().solve(direction(model), Problem(model, Supervised(), [batch], generator())))

    assert_close(found(lambda x: x.flatten(0, 1)), found(lambda x: x), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("solver", [KFAC(0.1), EKFAC(0.1)], ids=repr)
def test_what_has_only_a_gradient_of_rounding_adds_no_noise(solver: Solver) -> None:
    """A shift that batch normalisation takes away again: its gradient is 0, and what rounding leaves of it is no curvature."""
    torch.manual_seed(0)
    first = nn.Linear(5, 4)
    first.weight.requires_grad_(False)
    model = Tapped(nn.Sequential(first, nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, CLASSES)))
    batch = Batch(normal(40, 5).float(), labels(40, classes=CLASSES), torch.arange(40))
    rows = per_sample_gradients_slow(model, Supervised().training_loss, batch)
    own = trainable(model)
    solver.update(problem := Problem(model, Supervised(), [batch], generator()))
    gradient = unflatten(rows.mean(0), own)
    assert gradient["model.0.bias"].abs().max() > 0
    q = solver.solve(gradient, problem)
    still = q | {"model.0.bias": torch.zeros(4)}
    assert_close(rows @ flatten(q), rows @ flatten(still), rtol=0, atol=1e-5)


def test_wide_normalisations_have_no_matrix_of_their_own() -> None:
    """Its eigenvectors would cost the cube of its numbers; a gain alone may be twice as wide."""
    assert list(blocks(nn.Sequential(nn.LayerNorm(1024), nn.LayerNorm(1025), nn.LayerNorm(2048, bias=False)))) == ["0", "2"]


def test_drawn_labels_make_gauss_newton_in_the_mean() -> None:
    """Averaged over many draws, EK-FAC's moments in its basis are those of the Gauss-Newton matrix."""
    model = Tapped(nn.Linear(3, CLASSES)).double()
    batch = Batch(normal(4, 3), None, torch.arange(4)).take(torch.arange(4).repeat(2000))
    problem = Problem(model, Supervised(), [Batch(batch.inputs, labels(8000, classes=3), torch.arange(8000))], generator())
    basis = corrected(estimate(capture(problem)), capture(problem)).layers["model"]
    turn = torch.kron(basis.outputs[0], basis.inputs[0])
    gauss_newton = torch.zeros(12, 12, dtype=torch.float64)
    for x in normal(4, 3):
        p = model.model(x).softmax(0).detach()
        a = torch.cat([x, torch.ones(1, dtype=torch.float64)])
        gauss_newton += torch.kron(p.diag() - p.outer(p), a.outer(a)) / 4
    assert_close(basis.values.flatten(), (turn.T @ gauss_newton @ turn).diagonal(), rtol=0.1, atol=2e-3)


def test_what_single_precision_does_not_decompose_is_decomposed_in_double(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = torch.linalg.eigh

    def eigh(matrices: Tensor) -> tuple[Tensor, Tensor]:
        if matrices.dtype == torch.float32:
            raise torch.linalg.LinAlgError("failed to converge")
        values, vectors = plain(matrices)
        return values, vectors

    monkeypatch.setattr(torch.linalg, "eigh", eigh)
    monkeypatch.setattr(bases, "EXACT_EIGEN", 1)
    rows = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0))
    values, vectors = bases.eigen(rows.mT @ rows)
    assert values.dtype == vectors.dtype == torch.float32
    assert_close(vectors @ torch.diag_embed(values) @ vectors.mT, rows.mT @ rows)


def test_moments_that_are_no_numbers_are_told_of() -> None:
    with pytest.raises(RunError, match="second moments are NaN or infinite"):
        bases.eigen(torch.full((1, 2, 2), torch.nan))
