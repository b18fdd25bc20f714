"""NST by hand, and its other form."""

import torch
from feature_makers import MAPS_S, MAPS_T, pair
from torch.testing import assert_close

from limbeck.losses.features.nst import NST


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
