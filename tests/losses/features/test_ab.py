"""AB by hand."""

import pytest
import torch
from feature_makers import FS, FT, pair
from torch import nn
from torch.testing import assert_close

from limbeck.core.errors import ShapeError, UsageError
from limbeck.losses.features.ab import AB, boundary_loss
from support.makers import featured, normal, scene
from support.twins import assert_twins


def test_golden_numbers() -> None:
    # active teacher units: (1 - .5)^2 + (1 + 2)^2; inactive ones: (1 + 2)^2 + (1 - .5)^2; those beyond the margin cost nothing
    student = torch.tensor([[0.5, -2, 2, -0.5, 1.5, -1.5]], dtype=torch.float64)
    teacher = torch.tensor([[3.0, 1, -1, 0, 2, -2]], dtype=torch.float64)
    assert boundary_loss(student, teacher, 1).tolist() == [18.5]


def test_later_stages_count_twice_as_much_each() -> None:
    both = featured({"layer1": FS, "layer2": FS}, {"layer1": FT, "layer2": FT})
    term = AB()
    term.connectors = nn.ModuleList([nn.Identity(), nn.Identity()])
    assert_close(term(both), 1.5 * boundary_loss(FS, FT, 1))


def test_the_teachers_units_count_by_their_side_only() -> None:
    both = pair(FS, FT, "layer1")
    term = AB()
    term.build(scene(both))
    assert_close(term(pair(FS, FT.clamp(min=0), "layer1")), term(both))
    assert_close(term(pair(FS, 100 * FT, "layer1")), term(both))


def test_errors_are_one_sentence() -> None:
    with pytest.raises(ShapeError, match=r"AB: features \[4, 3\] and \[4, 3, 2, 2\] differ in kind"):
        AB().build(scene(pair(normal(4, 3), normal(4, 3, 2, 2), "layer1")))
    with pytest.raises(UsageError, match="AB: margin must be above 0"):
        AB(0)


def test_the_hinge_by_cases() -> None:
    """The slow twin: each side of 0 by itself."""
    student = normal(5, 3, 4, 4).requires_grad_()
    teacher = normal(5, 3, 4, 4, seed=1)
    teacher[:, 0] = teacher[:, 0].relu()  # a unit at 0 is not active

    def slow() -> torch.Tensor:
        active = (0.7 - student).clamp(min=0).square() * (teacher > 0)
        return (active + (0.7 + student).clamp(min=0).square() * (teacher <= 0)).sum((1, 2, 3))

    assert_twins(lambda: boundary_loss(student, teacher, 0.7), slow, [student])
