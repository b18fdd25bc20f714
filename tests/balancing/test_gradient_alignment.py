"""DHKD's gradient alignment: the sheet's numbers, and that the protected gradient is never worked against."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from limbeck.balancing.gradient_alignment import GradientAlignment
from limbeck.core.errors import UsageError
from limbeck.losses.labels.ce import CE
from limbeck.losses.logits.kd import KD
from support.makers import normal


def aligned(g: Tensor) -> Tensor:
    """The combined gradient, with the first row protected."""
    ours = GradientAlignment()
    objective = CE() + KD()
    for _ in range(len(g) - 2):
        objective = objective + KD()
    ours.start(objective)
    return ours.factors(torch.ones(len(g), dtype=g.dtype), g @ g.T) @ g


def test_golden_numbers() -> None:
    g = torch.tensor([[1.0, 2.0, 0.0], [-2.0, 0.5, 1.0]], dtype=torch.float64)
    assert_close(aligned(g), torch.tensor([-0.8, 2.9, 1.0], dtype=torch.float64))


@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize("seed", range(5))
def test_it_is_the_projection_of_each_other_gradient(count: int, seed: int) -> None:
    g = normal(count, 4, seed=seed)
    kept, *others = g
    moved = [other - min(float(kept @ other), 0.0) / float(kept @ kept) * kept for other in others]
    assert all(float(kept @ other) >= -1e-12 for other in moved)
    assert_close(aligned(g), kept + torch.stack(moved).sum(0))


def test_it_changes_nothing_where_nothing_conflicts_or_there_is_no_gradient() -> None:
    g = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], dtype=torch.float64)
    assert_close(aligned(g), g.sum(0))
    assert_close(aligned(0 * g), 0 * g.sum(0))
    ours = GradientAlignment()
    ours.start(CE() + KD())
    assert ours.factors(torch.ones(2), None).tolist() == [1, 1]


def test_the_protected_term_must_be_there_with_another() -> None:
    with pytest.raises(UsageError, match="did you mean 'KD'"):
        GradientAlignment(protect="DKD").start(KD() + CE())
    with pytest.raises(UsageError, match="protects 'CE' from other terms"):
        GradientAlignment().start(CE() * 2)
