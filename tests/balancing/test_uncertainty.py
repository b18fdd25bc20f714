"""Uncertainty weighting: its own gradient, where it tends to, and its state."""

import math

import pytest
import torch
from torch.testing import assert_close

from limbeck.balancing.uncertainty import Uncertainty
from limbeck.core.errors import UsageError
from limbeck.losses.labels.ce import CE
from limbeck.losses.logits.kd import KD

LOSSES = torch.tensor([3.0, 0.2], dtype=torch.float64)


def started(lr: float = 0.01) -> Uncertainty:
    ours = Uncertainty(lr)
    assert ours.start(KD() + CE()).tolist() == [1, 1]
    return ours


def test_by_hand() -> None:
    """s = 0: factors 1; s_1 = -0.1 (1/2 - 3) = 0.25, s_2 = -0.1 (1/2 - 0.2) = -0.03; then exp(-0.25) and exp(0.03)."""
    ours = started(0.1)
    assert ours.factors(LOSSES, None).tolist() == [1, 1]
    assert ours.factors(LOSSES, None).tolist() == pytest.approx([0.778801, 1.030455], abs=1e-6)


def test_its_step_is_down_the_gradient_of_the_papers_loss() -> None:
    ours = started(0.1)
    ours.factors(LOSSES, None)
    s = ours.s.clone().requires_grad_()
    (slope,) = torch.autograd.grad(((-s).exp() * LOSSES + s / 2).sum(), s)
    ours.factors(LOSSES, None)
    assert_close(ours.s, (s - 0.1 * slope).detach())


def test_it_tends_to_equal_shares() -> None:
    ours = started(0.5)
    for _ in range(300):
        factors = ours.factors(LOSSES, None)
    assert_close(factors * LOSSES, torch.full((2,), 0.5, dtype=torch.float64))
    assert ours.figures()["log_variance_KD"] == pytest.approx(math.log(6))


def test_state_goes_on() -> None:
    whole, first, second = started(), started(), started()
    for _ in range(6):
        wanted = whole.factors(LOSSES, None)
    for _ in range(3):
        first.factors(LOSSES, None)
    second.load_state(first.state())
    for _ in range(3):
        ours = second.factors(LOSSES, None)
    assert torch.equal(ours, wanted)


def test_the_step_size_is_checked() -> None:
    with pytest.raises(UsageError, match="Uncertainty: lr must be above 0"):
        Uncertainty(lr=0)
