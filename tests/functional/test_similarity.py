"""Directions, lengths and distances, and their derivatives at 0."""

import torch
from torch.testing import assert_close

from limbeck.functional.similarity import inverse_root, length, root, unit
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


def test_roots_of_0_have_no_derivative() -> None:
    squared = torch.tensor([0.0, 4.0, 0.25], dtype=torch.float64, requires_grad=True)
    for function, wanted, slopes in ((root, [0, 2, 0.5], [0, 0.25, 1]), (inverse_root, [0, 0.5, 2], [0, -1 / 16, -4])):
        found = function(squared)
        (gradient,) = torch.autograd.grad(found.sum(), squared, create_graph=True)
        (second,) = torch.autograd.grad(gradient.sum(), squared)
        assert found.tolist() == wanted
        assert gradient.tolist() == slopes
        assert torch.isfinite(second).all()
