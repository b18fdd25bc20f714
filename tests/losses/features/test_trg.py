"""TRG against the sheet's numbers, and what it does not see."""

import math
from dataclasses import replace

import pytest
import torch
from feature_makers import FS, FT, pair, rotation
from torch import Tensor, nn
from torch.testing import assert_close

from limbeck.core.errors import ShapeError, UsageError
from limbeck.core.outputs import Views
from limbeck.core.term import Moment
from limbeck.losses.features.trg import TRG, context_gap, graph_divergence, info_nce, links
from support.makers import feature_views, normal, scene
from support.twins import assert_twins

OWN = torch.tensor([[0, 0], [1, 0], [0, 1.2], [2, 2.1]], dtype=torch.float64)
OTHER = torch.tensor([[0, 0], [1, 0.5], [0, 1], [1.5, 2]], dtype=torch.float64)


def graph_of(neighbours: Tensor, weights: Tensor) -> Tensor:
    """The graph in full: the weight at (i, j) where i is a neighbour of j, else 0."""
    return torch.zeros(2 * (len(neighbours),), dtype=weights.dtype).scatter(1, neighbours, weights).T


def built(both: Views, **changes: float | tuple[float, float]) -> TRG:
    torch.manual_seed(0)
    term = TRG(**changes)  # type: ignore[arg-type]
    term.build(scene(both))
    return term


def test_golden_numbers_of_the_graphs() -> None:
    graph = graph_of(*links(OWN, 1, 1.0))
    assert graph[0].tolist() == pytest.approx([0, 0.606531, 0.486752, 0], abs=5e-7)
    assert graph[2].tolist() == pytest.approx([0, 0, 0, 0.090265], abs=5e-7)
    assert graph_of(*links(OTHER, 1, 1.0))[1].tolist() == pytest.approx([0, 0, 0, 0.286505], abs=5e-7)
    rows = [graph_divergence(OWN, OTHER, k, 1.0).tolist() for k in (1, 2)]
    assert rows[0] == pytest.approx([0.002950, 0.061141, 0.042044, 0], abs=5e-7)
    assert rows[1] == pytest.approx([0.002950, 0.009880, 0.003339, 0], abs=5e-7)


def test_golden_numbers_between_images_and_within() -> None:
    found = info_nce(FS, FT, 0.5)
    assert found.tolist() == pytest.approx([0.163315, 0.481452, 0.527249], abs=5e-7)
    assert float(info_nce(FS, FT, 0.1).sum()) == pytest.approx(0.104615, abs=5e-7)
    gap = context_gap(FS.unsqueeze(0), FT.unsqueeze(0), torch.ones(1, 3, dtype=torch.bool))
    assert float(gap) == pytest.approx(0.002423, abs=5e-7)


@pytest.mark.parametrize("sigma", [None, 1.0])
def test_the_graph_does_not_see_shifts_and_rotations_nor_sizes_with_its_own_sigma(sigma: float | None) -> None:
    own, other = normal(12, 3), normal(12, 5, seed=1)
    wanted = graph_divergence(own, other, 4, sigma)
    assert_close(graph_divergence(own @ rotation(3) + 9, other, 4, sigma), wanted)
    assert torch.allclose(graph_divergence(3 * own, other, 4, sigma), wanted) is (sigma is None)


def test_equal_sides_and_limits() -> None:
    own = normal(10, 4)
    assert_close(graph_divergence(own, own, 3, None), torch.zeros(10, dtype=torch.float64), rtol=0, atol=1e-12)
    assert_close(info_nce(own, own, 1e-3), torch.zeros(10, dtype=torch.float64), rtol=0, atol=1e-6)
    assert_close(info_nce(own, own + 1, 1e8), torch.full((10,), math.log(10), dtype=torch.float64))
    assert_close(info_nce(own * own[:, :1].abs(), own, 0.5), info_nce(own, own, 0.5))
    for found in (graph_divergence(own[:1], own[1:2], 3, None), info_nce(own[:1], own[1:2], 0.5)):
        assert found.tolist() == [0.0]
    same = torch.ones(5, 3, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(graph_divergence(same, own[:5], 2, None).sum(), same)
    assert torch.isfinite(gradient).all()


def test_the_mean_of_the_shares_is_the_mean_over_tokens() -> None:
    both = pair(normal(4, 6, 3), normal(4, 6, 5, seed=1), "layer3")
    term = built(both)
    term.project = nn.Linear(3, 5, dtype=torch.float64)
    own, other = (part.flatten(0, 1) for part in term.sides(both))
    inner = context_gap(*term.sides(both), torch.ones(4, 6, dtype=torch.bool))
    tokens = graph_divergence(own, other, 8, None) + info_nce(term.project(own), other, 0.1)
    assert_close(term(both), inner + tokens.unflatten(0, (4, 6)).mean(1))
    few = built(both, tokens=7, inner=0.0)
    torch.manual_seed(1)
    drawn = few(both)
    torch.manual_seed(1)
    places = torch.randperm(24)[:7]
    value = graph_divergence(own[places], other[places], 8, None) + info_nce(few.project(own[places]), other[places], 0.1)
    assert_close(drawn.mean(), value.mean())
    assert_close(drawn[0], 4 / 7 * value[places < 6].sum())


def test_tokens_that_do_not_count_may_hold_anything() -> None:
    both = feature_views("tokens")
    assert both.teacher is not None
    mask = torch.ones(9, 3, dtype=torch.bool)
    mask[:, 2] = False

    def soiled(part: Tensor) -> Tensor:
        return torch.where(mask.unsqueeze(2), part, 7.0) if part.dim() == 3 else part

    masked = replace(both, batch=replace(both.batch, mask=mask))
    term = built(both)
    wanted = term(masked)
    assert_close(term(replace(masked, student=both.student.map(soiled), teacher=both.teacher.map(soiled))), wanted)


def test_the_temperature_falls_along_a_cosine() -> None:
    term = TRG(tau=(0.5, 0.1))
    found = []
    for step in (0, 50, 100):
        term.at(Moment(step=step, steps=100, epoch=0.0))
        found.append(term._tau)
    assert found == pytest.approx([0.5, 0.3, 0.1])


def test_errors_are_one_sentence() -> None:
    with pytest.raises(ShapeError, match=r"TRG: features must be maps, or equally many tokens .* got \[4, 5\] and \[4, 7\]"):
        TRG().build(scene(feature_views("vectors")))
    with pytest.raises(UsageError, match="TRG: tau must be two temperatures"):
        TRG(tau=(0.5,))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="TRG: sigma must be above 0"):
        TRG(sigma=0)


@pytest.mark.parametrize("sigma", [None, 1.0])
@pytest.mark.parametrize("k", [1, 4, 20])
def test_sums_over_links_are_those_over_whole_rows(k: int, sigma: float | None) -> None:
    """The slow twin: both graphs in full, softmax over all tokens."""
    student, teacher = normal(12, 3).requires_grad_(), normal(12, 5, seed=1)

    def graph(tokens: Tensor) -> Tensor:
        squared = (tokens.unsqueeze(0) - tokens.unsqueeze(1)).square().sum(2)
        apart = squared.detach().clone().fill_diagonal_(torch.inf)
        linked = torch.zeros_like(squared).scatter(0, apart.topk(min(k, 11), dim=0, largest=False).indices, 1)
        scale = (squared * linked).sum() / linked.sum() if sigma is None else sigma
        return (-squared / (2 * scale)).exp() * linked

    def slow() -> Tensor:
        own, other = graph(student).log_softmax(1), graph(teacher).log_softmax(1)
        return (own.exp() * (own - other)).sum(1)

    assert_twins(lambda: graph_divergence(student, teacher, k, sigma), slow, [student])


def test_a_mask_of_all_tokens_is_none() -> None:
    own, other = normal(4, 6, 3), normal(4, 6, 5, seed=1)
    assert_close(context_gap(own, other), context_gap(own, other, torch.ones(4, 6, dtype=torch.bool)))


def test_the_contrast_is_the_diagonal_of_a_softmax() -> None:
    student, teacher = normal(7, 3).requires_grad_(), normal(7, 3, seed=1)

    def slow() -> Tensor:
        own, other = (part / part.norm(dim=1, keepdim=True) for part in (student, teacher))
        return -(own @ other.T / 0.3).log_softmax(1).diagonal()

    assert_twins(lambda: info_nce(student, teacher, 0.3), slow, [student])


def test_neighbours_far_from_the_origin_are_the_same() -> None:
    tokens = normal(40, 3, dtype=torch.float32)
    (near, weights), (far, others) = links(tokens, 4, None), links(tokens + 1000, 4, None)
    assert (near == far).double().mean() > 0.99  # a tie may go either way
    assert_close(weights, others, rtol=1e-2, atol=1e-3)
