"""Accuracy, NLL, calibration error and fidelity: numbers by hand, and independent oracles."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import rel_entr, softmax
from sklearn.metrics import accuracy_score, log_loss

from limbeck.core.errors import RunError, ShapeError, UsageError
from limbeck.evaluation.accuracy import accuracy, nll
from limbeck.evaluation.calibration import calibration_error
from limbeck.evaluation.fidelity import agreement, fidelity_kl
from limbeck.evaluation.figures import Figures, evaluate


def logits_of(rows: list[list[float]]) -> torch.Tensor:
    """Logits whose softmax is exactly these probabilities."""
    return torch.tensor(rows, dtype=torch.float64).log()


def random_case(seed: int, rows: int = 40, classes: int = 4) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    logits, teacher = (3 * torch.randn(rows, classes, generator=rng, dtype=torch.float64) for _ in range(2))
    return logits, torch.randint(classes, (rows,), generator=rng), teacher


def test_golden_numbers() -> None:
    logits = logits_of([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1], [0.25, 0.25, 0.5], [0.5, 0.3, 0.2]])
    labels = torch.tensor([0, 1, 0, 2])
    assert accuracy(logits, labels) == 0.5
    assert nll(logits, labels) == pytest.approx((math.log(2) + math.log(1.25) + math.log(4) + math.log(5)) / 4)


def test_calibration_error_by_hand() -> None:
    # Four samples with confidence 0.9, three right: |0.75 - 0.9| = 0.15. Two with 0.6, one right: 0.1. (4 * 0.15 + 2 * 0.1) / 6.
    logits = logits_of([[0.9, 0.1]] * 4 + [[0.4, 0.6]] * 2)
    labels = torch.tensor([0, 0, 0, 1, 1, 0])
    assert calibration_error(logits, labels) == pytest.approx(0.8 / 6, abs=1e-6)


def test_calibration_error_reads_logits_even_when_they_look_like_probabilities() -> None:
    logits, labels = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1])
    assert calibration_error(logits, labels) == pytest.approx(1 - 1 / (1 + math.exp(-1)), abs=1e-6)


def test_perfect_confidence_is_calibrated() -> None:
    labels = torch.tensor([0, 1, 2])
    assert calibration_error(1000 * torch.eye(3), labels) == pytest.approx(0, abs=1e-6)
    assert calibration_error(1000 * torch.eye(3), (labels + 1) % 3) == pytest.approx(1, abs=1e-6)


def test_fidelity_golden_numbers() -> None:
    student, teacher = logits_of([[0.5, 0.5], [0.25, 0.75]]), logits_of([[0.25, 0.75], [0.25, 0.75]])
    # KL((1/4, 3/4) || (1/2, 1/2)) = 1/4 log(1/2) + 3/4 log(3/2), and 0.
    assert fidelity_kl(student, teacher) == pytest.approx((0.25 * math.log(0.5) + 0.75 * math.log(1.5)) / 2)
    assert agreement(student, teacher) == 0.5


def ece_slow(logits: np.ndarray, labels: np.ndarray, bins: int = 15) -> float:
    probabilities = softmax(logits, axis=1)
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    total = 0.0
    for k in range(bins):
        own = (confidence > k / bins) & (confidence <= (k + 1) / bins)
        if own.any():
            total += own.mean() * abs(right[own].mean() - confidence[own].mean())
    return total


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10_000))
def test_equal_the_oracles(seed: int) -> None:
    logits, labels, teacher = random_case(seed)
    rows, truth = logits.numpy(), labels.numpy()
    assert accuracy(logits, labels) == pytest.approx(accuracy_score(truth, rows.argmax(1)))
    assert nll(logits, labels) == pytest.approx(log_loss(truth, softmax(rows, axis=1), labels=range(4)))
    assert calibration_error(logits, labels) == pytest.approx(ece_slow(rows, truth), abs=1e-5)
    kl = rel_entr(softmax(teacher.numpy(), axis=1), softmax(rows, axis=1)).sum(1).mean()
    assert fidelity_kl(logits, teacher) == pytest.approx(kl)


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 10_000), shift=st.floats(-5, 5))
def test_order_of_samples_and_a_shift_of_the_logits_change_nothing(seed: int, shift: float) -> None:
    logits, labels, teacher = random_case(seed)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    first = evaluate(logits, labels, teacher)
    other = evaluate(logits[order] + shift, labels[order], teacher[order])
    assert vars(first) == pytest.approx(vars(other), abs=1e-5)


def test_a_copy_of_the_teacher() -> None:
    logits, labels, _ = random_case(0)
    figures = evaluate(logits, labels, logits)
    assert figures.agreement == 1
    assert figures.fidelity_kl == 0


def test_without_a_teacher_there_is_no_fidelity() -> None:
    logits, labels, _ = random_case(0)
    figures = evaluate(logits, labels)
    assert figures == Figures(accuracy(logits, labels), nll(logits, labels), calibration_error(logits, labels), None, None)


def test_half_precision_logits() -> None:
    logits, labels, teacher = random_case(1)
    half = evaluate(logits.bfloat16(), labels, teacher.bfloat16())
    exact = evaluate(logits.bfloat16().double(), labels, teacher.bfloat16().double())
    assert vars(half) == pytest.approx(vars(exact), abs=1e-5)


def test_confident_and_wrong_stays_finite() -> None:
    logits = torch.tensor([[0.0, 2000.0]])
    assert nll(logits, torch.tensor([0])) == 2000


def test_errors() -> None:
    logits, labels, teacher = random_case(0)
    with pytest.raises(ShapeError, match=r"accuracy: .*got \[40, 4\] and \[39\]"):
        accuracy(logits, labels[1:])
    with pytest.raises(UsageError, match="no sample"):
        nll(logits[:0], labels[:0])
    with pytest.raises(UsageError, match=r"labels must lie in 0\.\.3"):
        calibration_error(logits, labels + 1)
    with pytest.raises(ShapeError, match="same samples and classes"):
        agreement(logits, teacher[:, 1:])
    with pytest.raises(UsageError, match="no sample"):
        fidelity_kl(logits[:0], teacher[:0])
    logits[3, 0] = torch.nan
    with pytest.raises(RunError, match="NaN or infinite for 1 of 40 samples"):
        evaluate(logits, labels)
