"""The pure tensor mathematics: log space, limits, masks."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from limbeck.functional.divergences import (
    cross_entropy,
    forward_kl,
    full_precision,
    jensen_shannon,
    kd_divergence,
    log_softmax,
    reverse_kl,
    skew_kl,
    token_mean,
)
from support.makers import normal


def test_precision_never_falls_below_float32() -> None:
    for dtype, wanted in [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ]:
        assert full_precision(torch.zeros(2, dtype=dtype)).dtype == wanted
        assert log_softmax(torch.zeros(2, dtype=dtype), 3).dtype == wanted


def test_forward_kl_is_the_sum_and_knows_which_side_is_which() -> None:
    p, q = normal(4, 6).softmax(1), normal(4, 6, seed=1).softmax(1)
    assert_close(forward_kl(p.log(), q.log()), (p * (p / q).log()).sum(1))
    assert not torch.allclose(forward_kl(p.log(), q.log()), forward_kl(q.log(), p.log()))


def test_forward_kl_where_probabilities_are_0() -> None:
    none = torch.tensor([[0.5, 0.5, 0.0]]).log()
    full = torch.tensor([[0.25, 0.25, 0.5]]).log()
    assert_close(forward_kl(none, full), torch.tensor([2.0]).log())
    assert forward_kl(none, none) == 0
    assert forward_kl(full, none) == torch.inf  # the student rules out what the teacher holds possible


def test_a_token_that_is_nan_says_nothing_of_the_others() -> None:
    """Masked tokens may hold anything."""
    log_p = normal(3, 4)
    log_p[0, 1], log_p[1, 0] = -torch.inf, torch.nan
    found = forward_kl(log_p, log_p)
    assert found[[0, 2]].tolist() == [0, 0]
    assert found[1].isnan()


@pytest.mark.parametrize("lowest", [-3.0, -torch.inf])
def test_the_guard_against_zeros_is_left_out_only_where_it_changes_nothing(lowest: float) -> None:
    """Under vmap nobody can look, and it stands: value and both gradients are the same as where one could, bit by bit."""
    logits = normal(5, 7)
    logits[1, 2] = lowest
    sides = logits.log_softmax(1), normal(5, 7, seed=1).log_softmax(1)
    guarded = torch.vmap(torch.func.grad_and_value(forward_kl, argnums=(0, 1)))(*sides)
    own = [part.clone().requires_grad_() for part in sides]
    value = forward_kl(*own)
    value.sum().backward()
    assert torch.equal(value, guarded[1])
    assert all(torch.equal(part.grad, slope) for part, slope in zip(own, guarded[0], strict=True))


@settings(deadline=None, max_examples=40)
@given(
    rows=st.lists(st.lists(st.floats(-50, 50), min_size=3, max_size=3), min_size=2, max_size=2),
    T=st.floats(0.2, 30),
    shift=st.floats(-100, 100),
)
def test_kd_divergence_is_never_negative_and_ignores_shifts(rows: list[list[float]], T: float, shift: float) -> None:
    student, teacher = torch.tensor(rows, dtype=torch.float64)
    own = kd_divergence(student, teacher, T)
    assert own >= -1e-9
    assert_close(kd_divergence(student + shift, teacher - shift, T), own, rtol=1e-9, atol=1e-7)


@pytest.mark.parametrize("swapped", [False, True])
def test_a_class_that_both_rule_out_has_no_gradient_and_changes_no_other(swapped: bool) -> None:
    student, teacher = normal(2, 4), normal(2, 4, seed=1)
    kinds: list[Callable[[Tensor, Tensor], Tensor]] = [
        forward_kl,
        reverse_kl,
        lambda p, q: jensen_shannon(p, q, 0.3),
        lambda p, q: skew_kl(*((q, p) if swapped else (p, q)), 0.1),
    ]
    for kind in kinds:
        values, slopes = [], []
        for more in (0, 2):
            own, theirs = (F.pad(part, (0, more), value=-torch.inf) for part in (student, teacher))
            own.requires_grad_()
            values.append(kind(log_softmax(theirs), log_softmax(own)))
            slopes.append(torch.autograd.grad(values[-1].sum(), own)[0])
        assert_close(*values)
        assert_close(slopes[1], F.pad(slopes[0], (0, 2)))


def test_cross_entropy_of_any_leading_shape() -> None:
    logits, targets = normal(2, 3, 4, 5), torch.arange(24).view(2, 3, 4) % 5
    flat = cross_entropy(logits.view(24, 5), targets.view(24))
    assert_close(cross_entropy(logits, targets), flat.view(2, 3, 4))


def test_token_mean() -> None:
    values = torch.tensor([[1.0, 2.0, 6.0], [4.0, float("nan"), float("inf")], [float("nan")] * 3], requires_grad=True)
    mask = torch.tensor([[True, True, True], [True, False, False], [False, False, False]])
    mean = token_mean(values, mask)
    assert mean.tolist() == [3, 4, 0]
    (gradient,) = torch.autograd.grad(mean.sum(), values)
    assert_close(gradient, torch.tensor([[1 / 3] * 3, [1.0, 0, 0], [0.0] * 3]))
    assert token_mean(values[:1].detach(), None).tolist() == [3]
    one = torch.tensor([1.0, 2.0])
    assert token_mean(one, torch.zeros(2, 5, dtype=torch.bool)) is one


@pytest.mark.parametrize("T", [1.0, 4.0])
def test_logit_gradient_and_hessian_of_the_mixed_loss(T: float) -> None:
    """kd-aif.md 2: g = alpha (p - e_y) + (1 - alpha) T (p_T - t_T), Lambda a mixture of diag p - p p'; T^2 cancels in it."""
    alpha, y, s, t = 0.3, torch.tensor(2), normal(5), normal(5, seed=1)

    def loss(logits: torch.Tensor) -> torch.Tensor:
        return alpha * cross_entropy(logits, y) + (1 - alpha) * kd_divergence(logits, t, T)

    p, p_T, t_T = s.softmax(0), (s / T).softmax(0), (t / T).softmax(0)
    gradient = alpha * (p - torch.eye(5, dtype=torch.float64)[2]) + (1 - alpha) * T * (p_T - t_T)
    curvature = alpha * (p.diag() - p.outer(p)) + (1 - alpha) * (p_T.diag() - p_T.outer(p_T))
    assert_close(torch.func.jacrev(loss)(s), gradient, rtol=1e-10, atol=1e-12)
    assert_close(torch.func.jacrev(torch.func.jacrev(loss))(s), curvature, rtol=1e-10, atol=1e-12)
