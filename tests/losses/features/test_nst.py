"""NST by hand, and its other form."""

import pytest
import torch
from feature_makers import MAPS_S, MAPS_T, pair
from torch.testing import assert_close

from limbeck.functional.similarity import unit
from limbeck.losses.features.nst import NST, by_channels, by_places
from support.makers import normal
from support.twins import assert_twins


def test_golden_number() -> None:
    # student channel (3, 4) -> (.6, .8); teacher channels (2, 0), (0, 5) -> (1, 0), (0, 1).
    # Kernel means: student 1, teacher (1 + 0 + 0 + 1) / 4, between (.36 + .64) / 2: 1 + .5 - 2 * .5 = .5
    student = torch.tensor([[[[3.0, 4.0]]]])
    teacher = torch.tensor([[[[2.0, 0.0]], [[0.0, 5.0]]]])
    assert_close(NST()(pair(student, teacher, "layer1")), torch.tensor([0.5], dtype=torch.float64))


def test_it_is_the_distance_of_the_gram_matrices_over_places() -> None:
    """(x . y)^2 is the inner product of x x^T and y y^T, so the discrepancy is |mean x x^T - mean y y^T|^2."""
    grams = []
    for maps in (MAPS_S, MAPS_T):
        channels = maps.flatten(2)
        channels = channels / channels.norm(dim=2, keepdim=True)
        grams.append(channels.transpose(1, 2) @ channels / channels.shape[1])
    wanted = (grams[0] - grams[1]).square().sum((1, 2))
    assert_close(NST()(pair(MAPS_S, MAPS_T, "layer1")), wanted)


def test_the_order_and_the_sizes_of_channels_are_not_seen() -> None:
    sizes = torch.tensor([2.0, -0.3], dtype=torch.float64).reshape(1, 2, 1, 1)
    assert_close(NST()(pair(sizes * MAPS_S.flip(1), MAPS_T, "layer1")), NST()(pair(MAPS_S, MAPS_T, "layer1")))


@pytest.mark.parametrize("places", [3, 6, 20])
def test_pairs_of_places_and_pairs_of_channels_give_the_same(places: int) -> None:
    student, teacher = normal(4, 5, places).requires_grad_(), normal(4, 7, places, seed=1)
    other = unit(teacher)
    assert_twins(lambda: by_places(unit(student), other), lambda: by_channels(unit(student), other), [student])
    assert_close(NST()(pair(student.unsqueeze(3), teacher.unsqueeze(3), "layer1")), by_channels(unit(student), other))


@pytest.mark.parametrize("places", [2, 20])
def test_a_channel_of_zeros_counts_as_none_and_has_no_gradient(places: int) -> None:
    student, teacher = normal(2, 3, places, 1), normal(2, 3, places, 1, seed=1)
    student[:, 0] = 0
    student.requires_grad_()
    (gradient,) = torch.autograd.grad(NST()(pair(student, teacher, "layer1")).sum(), student)
    assert torch.isfinite(gradient).all()
    assert not gradient[:, 0].any()
