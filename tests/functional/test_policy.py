"""Returns and advantages: the sheets' numbers, and what masks and means must do."""

import math

import pytest
import torch
from torch.testing import assert_close

from limbeck.functional.policy import clipped_surrogate, following, group_advantages, k3, mean_returns, returns, whitened

REWARDS = torch.tensor([[0.5, -0.2, 0.1, 0.4], [0.5, -0.2, 0.1, 9.0]], dtype=torch.float64)
MASK = torch.tensor([[True] * 4, [True] * 3 + [False]])


def test_the_returns_of_the_sheet() -> None:
    """llm-classics: rewards 0.5, -0.2, 0.1, 0.4 -> 0.8, 0.3, 0.5, 0.4, normalised 0.2, 0.1, 0.25, 0.4."""
    full, cut = [0.8, 0.3, 0.5, 0.4], [0.4, -0.1, 0.1, 0.0]
    assert_close(returns(REWARDS, MASK), torch.tensor([full, cut], dtype=torch.float64))
    normalised, shorter = [0.2, 0.1, 0.25, 0.4], [0.4 / 3, -0.05, 0.1, 0.0]
    assert_close(mean_returns(REWARDS, MASK), torch.tensor([normalised, shorter], dtype=torch.float64))
    assert following(torch.tensor([[1.0, 2.0, 3.0]])).tolist() == [[2.0, 3.0, 0.0]]


def test_a_masked_reward_may_be_anything() -> None:
    broken = REWARDS.masked_fill(~MASK, torch.nan)
    for found in (returns, mean_returns, whitened):
        assert_close(found(broken, MASK), found(REWARDS, MASK))
    assert whitened(REWARDS, torch.zeros_like(MASK)).tolist() == torch.zeros_like(REWARDS).tolist()


def test_whitened_tokens_have_mean_0_and_variance_1() -> None:
    """1, 2, 3, 6 around their mean 3: -2, -1, 0, 3 over the root of 14 / 4."""
    found = whitened(torch.tensor([[1.0, 2.0], [3.0, 6.0]], dtype=torch.float64), torch.ones(2, 2, dtype=torch.bool))
    assert_close(found, torch.tensor([[-2.0, -1.0], [0.0, 3.0]], dtype=torch.float64) / math.sqrt(3.5), rtol=1e-8, atol=1e-8)


def test_the_group_advantages_of_the_sheet() -> None:
    """rlad-trrd: rewards 1, 0, 0, 1 give +-0.865875; a group of equal rewards gives 0."""
    found = group_advantages(torch.tensor([1.0, 0.0, 0.0, 1.0, 0.3, 0.3, 0.3, 0.3], dtype=torch.float64), 4)
    assert found.tolist() == pytest.approx([0.865875, -0.865875, -0.865875, 0.865875, 0, 0, 0, 0], abs=5.1e-7)


def test_the_clipped_surrogate_is_never_above_the_plain_one() -> None:
    ratio, advantage = torch.tensor([0.5, 1.1, 2.0, 0.5, 1.1, 2.0]), torch.tensor([1.0, 1.0, 1.0, -1.0, -1.0, -1.0])
    assert_close(clipped_surrogate(ratio, advantage, 0.2), torch.tensor([0.5, 1.1, 1.2, -0.8, -1.1, -2.0]))


def test_k3_is_the_divergence_on_average() -> None:
    q, p = (torch.tensor(part, dtype=torch.float64) for part in ([0.7, 0.2, 0.1], [0.3, 0.3, 0.4]))
    assert_close((q * k3(q.log(), p.log())).sum(), (q * (q / p).log()).sum())
    assert (k3(q.log(), p.log()) >= 0).all()
