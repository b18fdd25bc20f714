"""Directions, lengths and distances, and their derivatives at 0."""

import torch
from torch.testing import assert_close

from limbeck.functional.similarity import differences, length, squared_distances, unit
from support.makers import normal


def test_directions_have_length_1_and_zeros_stay_zeros() -> None:
    vectors = normal(4, 3) * torch.tensor([[1e-8], [1.0], [1e8], [0.0]], dtype=torch.float64)
    assert_close(length(unit(vectors)), torch.tensor([1.0, 1, 1, 0], dtype=torch.float64))


def test_first_and_second_derivatives_at_0_are_finite() -> None:
    for function in (unit, length):
        vectors = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
        (first,) = torch.autograd.grad(function(vectors).sum(), vectors, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum() + first.sum(), vectors)
        assert not first.any()
        assert torch.isfinite(second).all()


def test_distances_of_the_gram_matrix_are_those_of_differences_also_far_from_the_origin() -> None:
    vectors = normal(6, 3, dtype=torch.float32)
    wanted = differences(vectors).square().sum(2)
    assert_close(squared_distances(vectors + 1000), wanted, rtol=1e-3, atol=1e-2)
    assert_close(squared_distances(vectors.double()), wanted.double(), rtol=1e-5, atol=1e-5)
