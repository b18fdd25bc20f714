"""ReviewKD against the sheet's number, and how its stages hang together."""

from dataclasses import replace

import pytest
import torch
from feature_makers import MAPS_S, MAPS_T, pair
from torch.testing import assert_close

from limbeck.core.errors import ShapeError
from limbeck.core.term import Moment
from limbeck.losses.features.reviewkd import Fusion, ReviewKD, hierarchical_context
from support.makers import feature_views, normal, scene
from support.twins import assert_twins


def built() -> ReviewKD:
    torch.manual_seed(0)
    term = ReviewKD()
    term.build(scene(feature_views("maps")))
    return term.double()


def test_golden_number() -> None:
    assert float(hierarchical_context(MAPS_S, MAPS_T).mean()) == pytest.approx(0.523675, abs=5e-7)
    assert hierarchical_context(MAPS_S, MAPS_S).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("size", [1, 2, 3, 4, 8])
def test_weights_sum_to_1_at_every_size(size: int) -> None:
    maps = normal(2, 3, size, size)
    assert_close(hierarchical_context(maps, maps + 3), torch.full((2,), 9.0, dtype=torch.float64))


def test_pooled_levels_do_not_see_what_the_average_does_not() -> None:
    gap = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).reshape(1, 1, 2, 2)
    assert hierarchical_context(gap, torch.zeros(1, 1, 2, 2)).tolist() == [pytest.approx(1 / 1.5)]


def test_a_fusion_mixes_by_its_attention() -> None:
    fusion = Fusion(2, 3, 4, fuses=True).double().eval()
    features, deeper = normal(5, 2, 4, 4), normal(5, 3, 2, 2, seed=1)
    with torch.no_grad():
        fusion.attend.weight.zero_()  # type: ignore[union-attr]
        fusion.attend.bias.copy_(torch.tensor([50.0, -50.0]))  # type: ignore[union-attr]
        _, own = fusion(features, deeper, features.shape[2:])
        assert_close(own, fusion.narrow(features))
        fusion.attend.bias.copy_(torch.tensor([-50.0, 50.0]))  # type: ignore[union-attr]
        out, handed = fusion(features, deeper, features.shape[2:])
    assert_close(handed, deeper.repeat_interleave(2, 2).repeat_interleave(2, 3))
    assert out.shape == (5, 4, 4, 4)


@pytest.mark.parametrize("size", [(4, 6), (2, 3), (1, 2)])
def test_attention_is_that_of_both_maps_put_together(size: tuple[int, int]) -> None:
    """The slow twin: enlarge (or thin out), put together, convolve."""
    fusion, own, deeper = Fusion(2, 3, 4, fuses=True).double(), normal(5, 3, *size), normal(5, 3, 2, 3, seed=1)
    both = torch.cat([own, torch.nn.functional.interpolate(deeper, size)], 1)
    assert fusion.attend is not None
    assert_close(fusion.shares(own, deeper), fusion.attend(both).sigmoid(), rtol=1e-12, atol=1e-12)


def test_the_teachers_size_is_taken_before_the_convolution() -> None:
    """As in the authors' code: a map that is enlarged afterwards would be constant on squares of 2 x 2."""
    fusion, features = Fusion(2, 3, 4, fuses=False).double().eval(), normal(5, 2, 2, 2)
    with torch.no_grad():
        out, handed = fusion(features, None, torch.Size((4, 4)))
        enlarged = fusion.narrow(features).repeat_interleave(2, 2).repeat_interleave(2, 3)
        assert_close(handed, enlarged)
        assert_close(out, fusion.out(enlarged))
        assert not torch.equal(out[:, :, 0, 0], out[:, :, 1, 1])


def test_a_deeper_feature_reaches_a_shallower_stage_and_not_the_other_way() -> None:
    both, term = feature_views("maps"), built()
    features = {name: part.clone().requires_grad_() for name, part in both.student.features.items()}
    handed = None
    reached = []
    for fusion, (student, teacher) in zip(
        term.fusions, term.both(replace(both, student=replace(both.student, features=features))), strict=True
    ):
        made, handed = fusion(student, handed, teacher.shape[2:])
        slopes = torch.autograd.grad(made.square().sum(), list(features.values()), allow_unused=True, retain_graph=True)
        reached.append([name for name, slope in zip(features, slopes, strict=True) if slope is not None])
    assert reached == [["penultimate"], ["layer3", "penultimate"], ["layer2", "layer3", "penultimate"], list(features)[:4]]


def test_it_warms_up() -> None:
    both, term = feature_views("maps"), built()
    full = term(both)
    term.at(Moment(step=5, steps=100, epoch=5.0))
    assert_close(term(both), full / 4)
    term.at(Moment(step=90, steps=100, epoch=90.0))
    assert_close(term(both), full)


def test_sides_with_different_numbers_of_stages_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"ReviewKD: student tap 'layer\?' gives 3 features and teacher tap 'layer1' 1; name"):
        ReviewKD(teacher="layer1").build(scene(feature_views("maps")))
    with pytest.raises(ShapeError, match=r"ReviewKD: the classifier must stand on vectors .* got \[4, 2, 3\]"):
        ReviewKD().build(scene(pair(normal(4, 2, 3), normal(4, 2, 3))))
    with pytest.raises(ShapeError, match="ReviewKD: features must be maps"):
        ReviewKD().build(scene(feature_views("tokens")))


def test_pooled_differences_are_differences_of_what_is_pooled() -> None:
    """The slow twin: each side pooled by itself."""
    student, teacher = normal(3, 2, 7, 7).requires_grad_(), normal(3, 2, 7, 7, seed=1)

    def slow() -> torch.Tensor:
        pools = [torch.nn.Identity(), *(torch.nn.AdaptiveAvgPool2d(size) for size in (4, 2, 1))]
        gaps = [(pool(student) - pool(teacher)).square().flatten(1).mean(1) for pool in pools]
        return sum(gap / 2**number for number, gap in enumerate(gaps)) / 1.875

    assert_twins(lambda: hierarchical_context(student, teacher), slow, [student])
