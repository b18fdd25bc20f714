"""MLKD: its three levels by hand and by plain loops."""

import pytest
import torch
from torch.testing import assert_close

from limbeck.core.errors import ShapeError, UsageError
from limbeck.losses.logits.kd import KD
from limbeck.losses.logits.mlkd import MLKD
from support.makers import normal, token_views, views


def test_golden_numbers() -> None:
    # log-probabilities as logits: P = [[.5, .5], [1/4, 3/4]], Q = [[.5, .5], [.5, .5]], T = 1
    # P P' = [[1/2, 1/2], [1/2, 5/8]], Q Q' = all 1/2: the rows of the squared gap sum to 0 and 1/64
    # P' P = [[5/16, 7/16], [7/16, 13/16]], Q' Q = all 1/2: squares (9 + 1 + 1 + 25) / 256 = 9/64, over C = 2: 9/128
    p = torch.tensor([[0.5, 0.5], [0.25, 0.75]], dtype=torch.float64).log()
    both = views(torch.zeros(2, 2, dtype=torch.float64), p, None)
    kl = KD(T=1)(both)
    assert_close(MLKD((1,), batch=1, per_class=0)(both) - kl, torch.tensor([0, 1 / 64], dtype=torch.float64))
    assert_close(MLKD((1,), batch=0, per_class=1)(both) - kl, torch.tensor([9 / 128, 9 / 128], dtype=torch.float64))


def test_the_mean_is_the_papers_loss() -> None:
    student, teacher = normal(7, 4), normal(7, 4, seed=1)
    wanted = torch.zeros((), dtype=torch.float64)
    for T in (2.0, 4.0):
        p, q = (teacher / T).softmax(1), (student / T).softmax(1)
        wanted += T**2 * (p * (p / q).log()).sum() / 7
        wanted += sum((p[i] @ p[j] - q[i] @ q[j]) ** 2 for i in range(7) for j in range(7)) / 7
        wanted += sum((p[:, i] @ p[:, j] - q[:, i] @ q[:, j]) ** 2 for i in range(4) for j in range(4)) / 4
    assert_close(MLKD((2, 4))(views(student, teacher, None)).mean(), wanted)


def test_errors() -> None:
    with pytest.raises(UsageError, match="at least one"):
        MLKD(())
    with pytest.raises(UsageError, match="each temperature must be above 0"):
        MLKD((4, 0))
    with pytest.raises(ShapeError, match="MLKD: logits must be"):
        MLKD()(token_views())
