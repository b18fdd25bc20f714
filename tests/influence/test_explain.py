"""Explanations from streamed tiles equal those from the whole matrix, and what removal is foretold to bring comes true."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from limbeck.core.errors import UsageError
from limbeck.influence.curvature.exact import Exact
from limbeck.influence.explain import explain, measure_removal, ranks, removal_curve
from limbeck.influence.matrix import Tile, score_matrix
from limbeck.influence.scores import Scores
from support.convex import regression
from support.makers import normal

PROBLEM = regression()


def tiles(phi: Tensor, size: int) -> list[Tile]:
    names, index = torch.arange(len(phi)) + 100, torch.arange(phi.shape[1]) + 7
    cut = zip(phi.split(size), names.split(size), strict=True)
    return [Tile(number, own, torch.zeros(len(own)), index, part) for number, (part, own) in enumerate(cut)]


@pytest.mark.parametrize("size", [1, 3, 8])
def test_streamed_tiles_say_what_the_whole_matrix_says(size: int) -> None:
    phi = normal(8, 5)
    found = explain(tiles(phi, size), k=3)
    assert_close(found.phi, phi.mean(0))
    assert torch.equal(found.index, torch.arange(5) + 7)
    assert found.rank.tolist() == ranks(phi.mean(0)).tolist()
    for row in range(5):
        order = phi[:, row].argsort(descending=True)
        harmed = [int(q) + 100 for q in order[:3] if phi[q, row] > 0]
        helped = [int(q) + 100 for q in order.flip(0)[:3] if phi[q, row] < 0]
        assert found.hurts[row].tolist() == harmed + [-1] * (3 - len(harmed))
        assert found.helps[row].tolist() == helped + [-1] * (3 - len(helped))
        assert_close(found.hurts_by[row][: len(harmed)], phi[[q - 100 for q in harmed], row])
        assert bool((found.helps_by[row] <= 0).all())


def test_fewer_queries_than_asked_for_and_none_at_all() -> None:
    assert explain(tiles(normal(2, 4), 1), k=5).hurts.shape == (4, 2)
    with pytest.raises(UsageError, match="there is no tile"):
        explain([])


def test_the_curve_by_hand() -> None:
    # worst first: 3, 1, 0, -2; minus the running sums over N = 4
    assert removal_curve(torch.tensor([1.0, -2.0, 3.0, 0.0])).tolist() == [0.0, -0.75, -1.0, -1.0, -0.5]


def test_removal_is_foretold_where_the_theory_holds() -> None:
    """A convex problem at its minimum: worst 5 of 150 removed and the model really fitted anew."""
    model = PROBLEM.model(PROBLEM.minimum)
    solver = Exact(PROBLEM.l2, relative=False)
    (tile,) = score_matrix(model, PROBLEM.task, [PROBLEM.train], [PROBLEM.query], solver)
    assert_close(tile.phi.mean(0), PROBLEM.exact_phi)
    scores = Scores(PROBLEM.train.index, PROBLEM.exact_phi, float(PROBLEM.query_loss(PROBLEM.minimum[None])), repr(solver))
    asked: list[Tensor] = []

    def without(gone: Tensor) -> float:
        asked.append(gone)
        weights = torch.ones(1, PROBLEM.count, dtype=torch.float64)
        weights[0, gone] = 0
        return float(PROBLEM.query_loss(PROBLEM.fit(weights)))

    found = measure_removal(scores, 5, without)
    assert found.predicted < 0
    assert found.measured == pytest.approx(found.predicted, rel=0.35)
    assert abs(found.random) < abs(found.measured)
    assert set(asked[0].tolist()) == set(PROBLEM.exact_phi.topk(5).indices.tolist())
    assert len(set(asked[1].tolist())) == 5
    with pytest.raises(UsageError, match="below the 150 samples"):
        measure_removal(scores, 150, without)
