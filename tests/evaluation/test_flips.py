import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu

from limbeck.core.errors import ShapeError, UsageError
from limbeck.evaluation.flips import flip_auc, found_curve
from limbeck.evaluation.weights import effective_sample_size

CASES = st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=30)


def tensors(case: list[tuple[int, bool]]) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor([float(score) for score, _ in case]), torch.tensor([flip for _, flip in case])


def test_golden_numbers() -> None:
    score, flipped = torch.tensor([3.0, 2.0, 2.0, 1.0]), torch.tensor([True, False, True, False])
    assert flip_auc(score, flipped) == 3.5 / 4  # four pairs, one of them tied
    assert found_curve(score, flipped).tolist() == [0, 0.5, 0.75, 1, 1]


def test_perfect_reversed_and_blind_scores() -> None:
    flipped = torch.tensor([True] * 3 + [False] * 7)
    assert flip_auc(flipped.float(), flipped) == 1
    assert flip_auc(-flipped.float(), flipped) == 0
    assert flip_auc(torch.zeros(10), flipped) == 0.5
    torch.testing.assert_close(found_curve(torch.zeros(10), flipped), torch.arange(11, dtype=torch.float64) / 10)
    assert found_curve(flipped.float(), flipped)[3] == 1


@settings(deadline=None, max_examples=25)
@given(case=CASES)
def test_auc_equals_the_rank_statistic(case: list[tuple[int, bool]]) -> None:
    score, flipped = tensors(case)
    auc = flip_auc(score, flipped)
    if flipped.all() or not flipped.any():
        assert auc is None
        return
    harmful, clean = score[flipped].numpy(), score[~flipped].numpy()
    assert auc == pytest.approx(mannwhitneyu(harmful, clean).statistic / (len(harmful) * len(clean)))


@settings(deadline=None, max_examples=25)
@given(case=CASES, seed=st.integers(0, 99))
def test_curve_rises_from_0_to_1_whatever_the_order_of_rows(case: list[tuple[int, bool]], seed: int) -> None:
    score, flipped = tensors([*case, (0, True)])
    curve = found_curve(score, flipped)
    assert curve.shape == (len(score) + 1,)
    assert curve[0] == 0
    assert curve[-1] == 1
    assert (curve.diff() >= 0).all()
    order = torch.randperm(len(score), generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(curve, found_curve(score[order], flipped[order]))


@settings(deadline=None, max_examples=25)
@given(case=CASES)
def test_area_under_the_curve_is_tied_to_auc(case: list[tuple[int, bool]]) -> None:
    """With F of N flipped, the area under the found curve is ((N - F) AUC + F / 2) / N."""
    score, flipped = tensors([*case, (1, True), (0, False)])
    total, count, auc = len(score), int(flipped.sum()), flip_auc(score, flipped)
    assert auc is not None
    area = float(np.trapezoid(found_curve(score, flipped).numpy())) / total
    assert area == pytest.approx(((total - count) * auc + count / 2) / total)


def test_errors() -> None:
    with pytest.raises(ShapeError, match=r"score \[3\] and flipped \[2\]"):
        flip_auc(torch.zeros(3), torch.tensor([True, False]))
    with pytest.raises(UsageError, match="finite"):
        found_curve(torch.tensor([1.0, torch.nan]), torch.tensor([True, False]))
    with pytest.raises(UsageError, match="nothing to find"):
        found_curve(torch.zeros(2), torch.tensor([False, False]))


def test_effective_sample_size() -> None:
    assert effective_sample_size(torch.ones(7)) == 7
    assert effective_sample_size(torch.tensor([1.0, 1.0, 0.0, 0.0])) == 2
    assert effective_sample_size(torch.tensor([1.0, 3.0])) == pytest.approx(16 / 10)
    assert effective_sample_size(torch.tensor([1e-200, 3e-200], dtype=torch.float64)) == pytest.approx(16 / 10)
    assert effective_sample_size(torch.zeros(3)) == 0
    for wrong in (torch.tensor([1.0, -1.0]), torch.tensor([torch.nan]), torch.zeros(0)):
        with pytest.raises(UsageError, match="finite weights of at least 0"):
            effective_sample_size(wrong)


@settings(deadline=None, max_examples=30)
@given(weights=st.lists(st.floats(0.01, 2), min_size=1, max_size=20), factor=st.floats(0.1, 10))
def test_effective_sample_size_ignores_scale_and_stays_in_range(weights: list[float], factor: float) -> None:
    own = effective_sample_size(torch.tensor(weights, dtype=torch.float64))
    assert own == pytest.approx(effective_sample_size(factor * torch.tensor(weights, dtype=torch.float64)))
    assert 1 - 1e-9 <= own <= len(weights) + 1e-9
