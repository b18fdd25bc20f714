"""NST by hand, and its other form."""

import pytest
import torch
from feature_makers import MAPS_S, MAPS_T, pair
from torch.testing import assert_close

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
def test_both_forms_are_the_kernels_of_unit_vectors(places: int) -> None:
    """The slow twin: bring every channel to length 1, then compare all with all."""
    student, teacher = normal(4, 5, places).requires_grad_(), normal(4, 7, places, seed=1)

    def slow() -> torch.Tensor:
        own, other = (part / part.norm(dim=2, keepdim=True) for part in (student, teacher))
        pairs = ((own, own), (other, other), (own, other))
        one, two, across = ((a @ b.transpose(1, 2)).square().mean((1, 2)) for a, b in pairs)
        return one + two - 2 * across

    assert_twins(lambda: by_channels(student, teacher), slow, [student])
    assert_twins(lambda: by_places(student, teacher), slow, [student])
    assert_close(NST()(pair(student.unsqueeze(3), teacher.unsqueeze(3), "layer1")), slow())


@pytest.mark.parametrize("form", [by_channels, by_places])
def test_a_channel_of_zeros_counts_as_none_and_has_no_gradient(form) -> None:  # type: ignore[no-untyped-def]
    student, teacher = normal(2, 3, 4), normal(2, 3, 4, seed=1)
    student[:, 0] = 0
    student.requires_grad_()
    (gradient,) = torch.autograd.grad(form(student, teacher).sum(), student)
    assert torch.isfinite(gradient).all()
    assert not gradient[:, 0].any()
