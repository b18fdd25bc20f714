"""Teacher hacking: the estimator, the law and the alarms by the sheet's numbers, and a chain of three states that shows it."""

import math

import pytest
import torch
from torch import Tensor

from limbeck.core.errors import ShapeError, UsageError
from limbeck.evaluation.hacking import HackingMonitor, PowerLaw, reference_divergence

STEPS = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0]


def test_the_divergence_of_texts() -> None:
    """One text of two tokens, one of one: KL((1/2, 1/2) || (1/4, 3/4)) = log(2 / sqrt 3), and 0 where both agree."""
    reference = torch.zeros(2, 2, 2)
    student = torch.tensor([[[0.25, 0.75], [1.0, 1.0]], [[0.25, 0.75], [0.9, 0.1]]]).log()
    mask = torch.tensor([[True, True], [True, False]])
    kl = math.log(2 / math.sqrt(3))
    assert reference_divergence(reference, student, mask) == pytest.approx((kl / 2 + kl) / 2)
    assert reference_divergence(student, student, mask) == 0.0
    with pytest.raises(ShapeError, match="must both be"):
        reference_divergence(reference, student[:1], mask)
    with pytest.raises(UsageError, match="a text without a counted token"):
        reference_divergence(reference, student, mask & torch.tensor([[True], [False]]))


def test_a_healthy_curve_raises_no_alarm() -> None:
    curve = [0.8 * n**-0.5 for n in STEPS]
    law = PowerLaw.of(STEPS, curve)
    assert (law.scale, law.exponent) == (pytest.approx(0.8), pytest.approx(-0.5))
    assert HackingMonitor().departed(STEPS, curve) is None
    assert HackingMonitor().risen(curve) is None


def test_the_alarms_of_the_sheet() -> None:
    """Both examples are off at two points, which three in a row would pass over (docs/decisions)."""
    proxy = [0.8, 0.5657, 0.4, 0.30, 0.27, 0.262]
    law = PowerLaw.of(STEPS[:3], proxy[:3])
    assert law.exponent == pytest.approx(-0.5, abs=1e-4)
    assert law.residuals(STEPS, proxy) == pytest.approx([0, 0, 0, 0.058883, 0.300096, 0.616592], abs=1e-4)
    golden = [0.9, 0.7, 0.6, 0.58, 0.61, 0.68]
    monitor = HackingMonitor()
    assert (monitor.departed(STEPS, proxy), monitor.risen(golden)) == (5, 5)
    slow = HackingMonitor(patience=3)
    assert (slow.departed(STEPS, proxy), slow.risen(golden)) == (None, None)
    assert monitor.risen([0.9, 0.58, 0.61, 0.585, 0.61]) is None  # back within 2 %: not in a row


def test_what_is_refused() -> None:
    for steps, values in (([1.0, 2.0], [1.0, 1.0]), ([1.0, 1.0, 2.0], [1.0] * 3), (STEPS[:3], [1.0, 0.0, 1.0])):
        with pytest.raises(UsageError, match="teacher hacking"):
            PowerLaw.of(steps, values)
    with pytest.raises(ShapeError, match="3 steps and 2 values"):
        HackingMonitor().departed(STEPS[:3], [1.0, 1.0])
    with pytest.raises(UsageError, match="HackingMonitor: early"):
        HackingMonitor(early=2)


ORACLE = torch.tensor([[0.90, 0.08, 0.02], [0.02, 0.90, 0.08], [0.08, 0.02, 0.90]], dtype=torch.float64)
TEACHER = 0.9 * ORACLE + 0.1 / 3
"""A teacher that is less sure than the oracle: between it and a student that knows nothing."""


def texts(chain: Tensor, count: int, seed: int) -> Tensor:
    """Texts of three states, [count, 3]."""
    generator, ids = torch.Generator().manual_seed(seed), [torch.arange(count) % 3]
    for _ in range(2):
        ids.append(torch.multinomial(chain[ids[-1]], 1, generator=generator).squeeze(1))
    return torch.stack(ids, 1)


def golden_of(seed: int, *, fresh: bool) -> list[float]:
    """A table as the student, trained on the words of the teacher: its golden metric at steps 1, 2, 4, ..., 512."""
    held, counted = texts(ORACLE, 256, 1)[:, :-1], torch.ones(256, 2, dtype=torch.bool)
    table, golden, rows = torch.zeros(3, 3, dtype=torch.float64), [], texts(TEACHER, 20, seed)
    for step in range(1, 513):
        rows = texts(TEACHER, 20, seed + step) if fresh else rows
        pairs = torch.zeros(3, 3, dtype=torch.float64)
        pairs.index_put_((rows[:, :-1].flatten(), rows[:, 1:].flatten()), torch.tensor(1 / 40).double(), accumulate=True)
        table += pairs - pairs.sum(1, keepdim=True) * table.softmax(1)  # a step down the mean cross-entropy of 40 words
        if step & (step - 1) == 0:
            golden.append(reference_divergence(ORACLE.log()[held], table[held], counted))
    return golden


@pytest.mark.slow
@pytest.mark.parametrize("seed", [2, 1000, 2000])
def test_twenty_texts_over_and_over_are_hacked_and_fresh_ones_are_not(seed: int) -> None:
    """Offline the golden metric turns up and the alarm is raised; online it ends at its least value, but for noise."""
    offline, online = golden_of(seed, fresh=False), golden_of(seed, fresh=True)
    assert HackingMonitor().risen(offline) is not None
    assert offline[-1] > 1.2 * min(offline)
    assert online[-1] < 1.1 * min(online)
