"""FIRST: recalibration and its divergences by the sheet's numbers, stored teachers, the choice of c."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from limbeck.core.errors import UsageError
from limbeck.core.outputs import Outputs, Views
from limbeck.core.topk import TopK
from limbeck.evaluation.calibration import calibration_error
from limbeck.functional.topk import top_k
from limbeck.losses.logits.first import FIRST, best_c, recalibrated
from limbeck.losses.logits.kd import KD
from limbeck.losses.logits.topktail import TopKTail
from support.makers import normal, random_views, token_views, views

P = torch.tensor([[0.70, 0.15, 0.08, 0.04, 0.02]], dtype=torch.float64)
Q = torch.tensor([[0.50, 0.20, 0.10, 0.05, 0.03]], dtype=torch.float64)


def with_rest(p: Tensor) -> Tensor:
    """Log-probabilities whose last class has what is left."""
    return torch.cat([p, 1 - p.sum(1, keepdim=True)], 1).log()


BOTH = views(with_rest(Q), with_rest(P), None)


@pytest.mark.parametrize(
    "c, wanted",
    [
        (0.1, [0.991483, 0.004052, 0.002012, 0.001349, 0.001104]),
        (0.3, [0.666246, 0.106519, 0.084351, 0.073822, 0.069061]),
        (1.0, [0.318637, 0.183838, 0.171409, 0.164688, 0.161427]),
    ],
)
def test_golden_numbers_of_the_recalibration(c: float, wanted: list[float]) -> None:
    assert_close(recalibrated(P.log(), c).exp(), torch.tensor([wanted], dtype=torch.float64), rtol=0, atol=5.1e-7)


@pytest.mark.parametrize(
    "term, wanted",
    [
        (FIRST(c=0.3, student="softmax"), 0.067591),
        (FIRST(c=None), 0.041300),
        (TopKTail(KD(T=1), k=5), 0.132643),
        (FIRST(c=0.3), 0.068299),
    ],
    ids=repr,
)
def test_golden_numbers(term: FIRST, wanted: float) -> None:
    assert float(term(BOTH)) == pytest.approx(wanted, abs=5.1e-7)


def test_limits() -> None:
    assert_close(recalibrated(P.log(), 1e6).exp(), torch.full_like(P, 0.2), rtol=1e-5, atol=0)
    assert_close(recalibrated(P.log(), 1e-3).exp(), torch.tensor([[1.0, 0, 0, 0, 0]], dtype=torch.float64))
    assert recalibrated(P.log(), 0.7).argsort(descending=True).tolist() == [[0, 1, 2, 3, 4]]
    both = token_views()
    assert_close(FIRST(k=5, c=None)(both), KD(T=1)(both))  # all five classes, not recalibrated
    for term in (FIRST(c=None), FIRST(c=0.3, student="softmax")):
        assert_close(term(views(with_rest(P), with_rest(P), None)), torch.zeros(1, dtype=torch.float64), rtol=0, atol=1e-15)


def test_a_stored_teacher_does_for_a_live_one() -> None:
    both = token_views()
    assert both.teacher is not None
    stored = Outputs(both.teacher.logits[..., :0], sparse=top_k(both.teacher.logits, 4))
    kept = Views(both.student, stored, both.batch)
    for k in (3, 4):
        assert_close(FIRST(k=k)(kept), FIRST(k=k)(both))
    with pytest.raises(UsageError, match="k is 5, but only 4 classes are known"):
        FIRST(k=5)(kept)
    hot = Outputs(stored.logits, sparse=top_k(both.teacher.logits, 5, T=2))
    with pytest.raises(UsageError, match="compares at temperature 1, but the teacher's probabilities were taken at 2"):
        FIRST()(Views(both.student, hot, both.batch))


@pytest.mark.slow
def test_the_best_c_has_the_least_calibration_error_of_a_fine_grid() -> None:
    logits = normal(400, 6, seed=3)
    targets = torch.multinomial(logits.softmax(1), 1, generator=torch.Generator().manual_seed(0)).squeeze(1)
    known: TopK = top_k(2.5 * logits, 5)  # surer than it may be
    c = best_c(known.log_probs, known.ids, targets)

    def error(scale: float) -> float:
        # the sheet's own formula, bin by bin
        confidence, right = recalibrated(known.log_probs, scale).exp().amax(1), known.ids[:, 0] == targets
        total = 0.0
        for low in range(10):
            inside = (confidence > low / 10) & (confidence <= (low + 1) / 10)
            if inside.any():
                total += float(inside.double().mean() * (right[inside].double().mean() - confidence[inside].mean()).abs())
        return total

    coarse = min(error(step / 10) for step in range(1, 11))
    assert error(c) <= coarse + 1e-6
    assert error(c) == pytest.approx(
        min(error(round(c + 0.02 * step, 2)) for step in (-1, 0, 1) if c + 0.02 * step > 0), abs=1e-6
    )


def test_golden_number_of_the_calibration_error() -> None:
    confidence = torch.tensor([0.95, 0.85, 0.75, 0.92, 0.65, 0.55])
    right = torch.tensor([1, 0, 1, 1, 0, 1])
    two = torch.stack([confidence, 1 - confidence], 1).log()
    assert calibration_error(two, 1 - right, bins=10) == pytest.approx(0.388333, abs=5e-7)


def test_errors() -> None:
    with pytest.raises(UsageError, match="student='softmax' needs a scale c"):
        FIRST(c=None, student="softmax")
    with pytest.raises(UsageError, match="c must be above 0"):
        FIRST(c=0)
    with pytest.raises(UsageError, match="k must be"):
        FIRST(k=1)
    assert FIRST(k=9)(random_views()).shape == (6,)  # fewer classes than k: all of them
