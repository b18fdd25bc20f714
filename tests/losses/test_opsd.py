"""Clipped divergences and the sampled-token form: the sheet's numbers and limits."""

from typing import Literal

import pytest
import torch
from torch.testing import assert_close

from limbeck.core.errors import UsageError
from limbeck.losses.logits.jsd import JSD
from limbeck.losses.logits.kd import KD
from limbeck.losses.logits.opsd import OPSD
from limbeck.losses.logits.reversekl import ReverseKL
from limbeck.losses.logits.sampledkl import SampledKL
from support.makers import LLM_STUDENT, LLM_TEACHER, normal, random_views, views

BOTH = views(LLM_STUDENT, LLM_TEACHER, None)


@pytest.mark.parametrize(
    "term, rows, mean",
    [
        (OPSD(clip=None, T=1), [0.230487, 0.813638], 0.522063),
        (OPSD(clip=0.05, T=1), [-0.134133, -0.192049], -0.163091),
        (OPSD(clip=None, top_k=2, T=1), [0.257403, 0.828725], 0.543064),
        (OPSD(clip=0.5, per="token", T=1), [0.230487, 0.5], 0.365244),
    ],
    ids=repr,
)
def test_golden_numbers(term: OPSD, rows: list[float], mean: float) -> None:
    assert_close(term(BOTH), torch.tensor(rows, dtype=torch.float64), rtol=0, atol=5.1e-7)
    assert float(term(BOTH).mean()) == pytest.approx(mean, abs=5.1e-7)


def test_without_a_bound_they_are_the_divergences() -> None:
    both = random_views()
    for ours, other in ((OPSD(0, None), KD(T=1.1)), (OPSD(1, None), ReverseKL(T=1.1)), (OPSD(0.3, None), JSD(0.3, T=1.1))):
        assert_close(ours(both), other(both))
    assert_close(OPSD(0, None, top_k=9)(both), KD(T=1.1)(both))  # more than there are classes


@pytest.mark.parametrize("beta", [0.0, 0.4, 1.0])
def test_clipping_at_0_leaves_what_is_below_0(beta: float) -> None:
    assert (OPSD(beta, 0)(random_views()) <= 0).all()
    order = torch.tensor([2, 0, 3, 1])
    moved = views(LLM_STUDENT[:, order], LLM_TEACHER[:, order], None)
    assert_close(OPSD(beta, 0.05)(moved), OPSD(beta, 0.05)(BOTH))


@pytest.mark.parametrize("beta", [0.0, 0.4, 1.0])
def test_it_is_0_and_flat_where_both_agree(beta: float) -> None:
    student = LLM_TEACHER.clone().requires_grad_()
    value = OPSD(beta)(views(student, LLM_TEACHER, None))
    (slope,) = torch.autograd.grad(value.sum(), student)
    assert_close(value, torch.zeros_like(value), rtol=0, atol=1e-15)
    assert_close(slope, torch.zeros_like(slope), rtol=0, atol=1e-15)


@pytest.mark.parametrize("per", ["entry", "token"])
def test_what_the_teacher_rules_out_is_cut_off_in_value_and_gradient(per: Literal["entry", "token"]) -> None:
    student, teacher = LLM_STUDENT.clone().requires_grad_(), LLM_TEACHER.clone()
    teacher[:, 1] = -torch.inf
    value = OPSD(1, 0.05, per=per, T=1)(views(student, teacher, None))
    (slope,) = torch.autograd.grad(value.sum(), student)
    log_q, log_p = student.detach().log_softmax(1), teacher.log_softmax(1)
    kept = torch.tensor([0, 2, 3])
    parts = (log_q.exp() * (log_q - log_p))[:, kept].clamp(max=0.05)
    assert_close(value, parts.sum(1) + 0.05 if per == "entry" else torch.full((2,), 0.05, dtype=torch.float64))
    assert slope.isfinite().all()


def test_golden_numbers_of_the_sampled_token() -> None:
    both = views(LLM_STUDENT, LLM_TEACHER, torch.tensor([0, 2]))
    log_p, log_q = LLM_TEACHER.log_softmax(1), LLM_STUDENT.log_softmax(1)
    drawn = torch.tensor([[0], [2]])
    advantage = (log_p - log_q).gather(1, drawn).squeeze(1)
    assert_close(advantage, torch.tensor([0.680308, 1.303677], dtype=torch.float64), rtol=0, atol=5.1e-7)
    assert float(SampledKL()(both).mean()) == pytest.approx(1.387172, abs=5.1e-7)


def test_its_expected_gradient_is_that_of_the_reverse_kl() -> None:
    student, teacher = normal(1, 6).requires_grad_(), normal(1, 6, seed=1)
    (wanted,) = torch.autograd.grad(ReverseKL()(views(student, teacher, None)).sum(), student)
    found = torch.zeros_like(wanted)
    for token, share in enumerate(student.detach().softmax(1)[0]):
        value = SampledKL()(views(student, teacher, torch.tensor([token])))
        found += share * torch.autograd.grad(value.sum(), student)[0]
    assert_close(found, wanted, rtol=1e-12, atol=1e-15)


def test_errors() -> None:
    with pytest.raises(UsageError, match="clip must be 0 or above"):
        OPSD(clip=-0.1)
    with pytest.raises(UsageError, match="per must be one of entry, token"):
        OPSD(per="class")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="labels"):
        SampledKL()(BOTH)
