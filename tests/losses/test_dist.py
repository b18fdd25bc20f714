"""DIST against the numbers of the sheet and torch's own correlation."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from limbeck.core.errors import ShapeError
from limbeck.losses.logits.dist import DIST, centred_unit
from support.makers import STUDENT, TEACHER, golden_views, normal, token_views, views


@pytest.mark.parametrize(
    "term, wanted",
    [
        (DIST(1, 0), 0.114978),
        (DIST(0, 1), 0.020517),
        (DIST(), 0.135495),
        (DIST(1, 0, T=4), 16 * 0.139332),
        (DIST(0, 1, T=4), 16 * 0.047891),
        (DIST(T=4), 2.995574),
    ],
    ids=repr,
)
def test_golden_numbers(term: DIST, wanted: float) -> None:
    """The sheet's numbers hold 1e-8 in the denominator, which is 4e-6 of the correlation where probabilities vary little."""
    assert float(term(golden_views()).mean()) == pytest.approx(wanted, abs=4e-6 * term.T**2)


def test_the_mean_is_one_less_the_correlations() -> None:
    student, teacher = normal(9, 5), normal(9, 5, seed=1)
    p, q = teacher.softmax(1), student.softmax(1)

    def correlations(a: Tensor, b: Tensor) -> Tensor:
        return torch.stack([torch.corrcoef(torch.stack(pair))[0, 1] for pair in zip(a, b, strict=True)])

    both = views(student, teacher, None)
    assert_close(DIST(1, 0)(both), 1 - correlations(p, q))
    assert_close(DIST(0, 1)(both).mean(), 1 - correlations(p.T, q.T).mean())


def test_order_of_classes_does_not_matter() -> None:
    order = torch.tensor([2, 0, 3, 1])
    assert_close(DIST()(views(STUDENT[:, order], TEACHER[:, order], None)), DIST()(golden_views()))


def test_a_lone_sample_and_constant_rows_are_finite() -> None:
    alone = DIST(0, 1)(views(STUDENT[:1], TEACHER[:1], None))
    assert_close(alone, torch.zeros(1, dtype=torch.float64))
    flat = torch.zeros(3, 4, dtype=torch.float64, requires_grad=True)
    value = DIST(1, 0)(views(flat, TEACHER, None))
    assert_close(value.detach(), torch.full((3,), 0.5, dtype=torch.float64))
    (gradient,) = torch.autograd.grad(value.sum(), flat)
    assert torch.isfinite(gradient).all()


def test_centred_unit() -> None:
    assert_close(centred_unit(torch.tensor([[1.0, 4.0, 4.0, 7.0]]), 1), torch.tensor([[-1.0, 0, 0, 1.0]]) / 2**0.5)
    assert centred_unit(torch.full((2, 3), 5.0), 1).tolist() == [[0.0] * 3] * 2


def test_tokens_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"DIST: logits must be \[B, C\], one row per sample, got \[6, 4, 5\]"):
        DIST()(token_views())
