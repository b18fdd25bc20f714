"""The family of f-divergences as terms: the numbers of two sheets, bounds, limits, generators, [B, C] and [B, L, V]."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from limbeck.core.errors import UsageError
from limbeck.core.term import Term
from limbeck.losses.labels.ce import CE
from limbeck.losses.logits.alphadivergence import AlphaDivergence
from limbeck.losses.logits.jsd import JSD
from limbeck.losses.logits.kd import KD
from limbeck.losses.logits.reversekl import ReverseKL
from limbeck.losses.logits.skewkl import SkewKL
from limbeck.losses.logits.skewreversekl import SkewReverseKL
from limbeck.losses.logits.topktail import TopKTail
from limbeck.losses.logits.totalvariation import TotalVariation
from support.makers import LLM_STUDENT, LLM_TEACHER, normal, random_views, views

P = torch.tensor([[0.5, 0.3, 0.2]], dtype=torch.float64)
Q = torch.tensor([[0.2, 0.3, 0.5]], dtype=torch.float64)

ROWS = [
    (KD(T=1), [0.230487, 0.813638]),
    (ReverseKL(), [0.243138, 0.896409]),
    (JSD(0.1), [0.020685, 0.071687]),
    (JSD(0.5), [0.057823, 0.195844]),
    (JSD(0.9), [0.021570, 0.076888]),
    (TotalVariation(), [0.323229, 0.589896]),
    (SkewKL(0.1), [0.185808, 0.634162]),
    (SkewReverseKL(0.1), [0.191581, 0.664117]),
    (KD(T=2), [0.229672, 0.860679]),
    (AlphaDivergence(0.5), [0.234012, 0.817207]),
    (AlphaDivergence(2), [0.239188, 1.023833]),
    (AlphaDivergence(0.999), [0.230489, 0.813576]),
]
MIRRORED = [
    (ReverseKL(), 0.274887),
    (JSD(0.5), 0.066414),
    (JSD(0.1), 0.024425),
    (JSD(0.9), 0.024425),
    (TotalVariation(), 0.3),
    (SkewKL(0.1), 0.217381),
    (SkewReverseKL(0.1), 0.217381),
    (AlphaDivergence(0.5), 0.270178),
    (AlphaDivergence(2), 0.315),
]
GENERATORS: list[tuple[Term, Callable[[Tensor], Tensor]]] = [
    (ReverseKL(), lambda u: -u.log()),
    (JSD(0.3), lambda u: 0.3 * u * (u / (0.3 * u + 0.7)).log() - 0.7 * (0.3 * u + 0.7).log()),
    (TotalVariation(), lambda u: (u - 1).abs() / 2),
    (SkewKL(0.2), lambda u: u * (u / (0.2 * u + 0.8)).log()),
    (SkewReverseKL(0.2), lambda u: -(0.8 * u + 0.2).log()),
    (AlphaDivergence(0.3), lambda u: (u**0.3 - 1) / (0.3 * (0.3 - 1))),
]
"""D_f = sum_v q_v f(p_v / q_v) with p the teacher's."""


@pytest.mark.parametrize("term, wanted", ROWS, ids=repr)
def test_golden_numbers_per_sample_and_per_token(term: Term, wanted: list[float]) -> None:
    rows = torch.tensor(wanted, dtype=torch.float64)
    assert_close(term(views(LLM_STUDENT, LLM_TEACHER, None)), rows, rtol=0, atol=5.1e-7)
    tokens, mask = views(LLM_STUDENT.unsqueeze(0), LLM_TEACHER.unsqueeze(0), None), torch.tensor([[False, True]])
    assert_close(term(tokens), rows.mean(0, keepdim=True), rtol=0, atol=5.1e-7)
    second = views(LLM_STUDENT.unsqueeze(0), LLM_TEACHER.unsqueeze(0), None, mask)
    assert_close(term(second), rows[1:], rtol=0, atol=5.1e-7)


@pytest.mark.parametrize("term, wanted", MIRRORED, ids=repr)
def test_golden_numbers_of_the_survey(term: Term, wanted: float) -> None:
    assert float(term(views(Q.log(), P.log(), None))) == pytest.approx(wanted, abs=5.1e-7)


@pytest.mark.parametrize("term, f", GENERATORS, ids=lambda part: repr(part) if isinstance(part, Term) else "f")
def test_value_and_gradient_are_those_of_the_generator(term: Term, f: Callable[[Tensor], Tensor]) -> None:
    student, teacher = normal(5, 6).requires_grad_(), normal(5, 6, seed=1)
    p, q = teacher.softmax(1), student.softmax(1)
    wanted, found = (q * f(p / q)).sum(1), term(views(student, teacher, None))
    assert_close(found, wanted)
    assert_close(*(torch.autograd.grad(value.sum(), student, retain_graph=True)[0] for value in (found, wanted)))


@pytest.mark.parametrize("f", [f for _, f in GENERATORS])
def test_generators_are_convex_and_0_at_1(f: Callable[[Tensor], Tensor]) -> None:
    u = torch.linspace(0.05, 5, 100, dtype=torch.float64)
    assert float(f(torch.ones(1, dtype=torch.float64))) == pytest.approx(0, abs=1e-15)
    assert (f(u[:-2]) + f(u[2:]) - 2 * f(u[1:-1]) >= -1e-12).all()


def test_merging_classes_never_adds_to_a_divergence() -> None:
    both = views(LLM_STUDENT, LLM_TEACHER, None)
    assert float(TopKTail(KD(T=1), k=2)(both).mean()) == pytest.approx(0.509715, abs=5.1e-7)
    random = random_views(classes=9)
    for term in (KD(T=1), *(term for term, _ in GENERATORS)):
        assert (TopKTail(term, k=3)(random) <= term(random) + 1e-12).all()


def test_golden_number_of_the_tokens_themselves() -> None:
    both = views(LLM_STUDENT.unsqueeze(0), LLM_TEACHER.unsqueeze(0), torch.tensor([[0, 2]]))
    assert float(CE()(both)) == pytest.approx(1.345083, abs=5.1e-7)


def test_gradient_of_the_reverse_kl_in_closed_form() -> None:
    student, teacher = normal(5, 6).requires_grad_(), normal(5, 6, seed=1)
    value = ReverseKL(T=3)(views(student, teacher, None))
    (gradient,) = torch.autograd.grad(value.sum(), student)
    log_q, log_p = (student.detach() / 3).log_softmax(1), (teacher / 3).log_softmax(1)
    assert_close(gradient, 3 * log_q.exp() * (log_q - log_p - value.detach().unsqueeze(1) / 9))


@pytest.mark.parametrize("beta", [0.1, 0.5, 0.9])
def test_bounds(beta: float) -> None:
    """Distributions that share nothing reach them."""
    apart = views(torch.tensor([[500.0, -500.0]]).double(), torch.tensor([[-500.0, 500.0]]).double(), None)
    share = torch.tensor([beta], dtype=torch.float64)
    assert_close(JSD(beta)(apart), -share * share.log() - (1 - share) * (1 - share).log())
    assert_close(SkewKL(beta)(apart), -share.log())
    assert_close(SkewReverseKL(beta)(apart), -share.log())
    assert_close(AlphaDivergence(beta)(apart), 1 / (share * (1 - share)))
    assert_close(TotalVariation()(apart), torch.ones(1, dtype=torch.float64))


def test_limits() -> None:
    both = views(LLM_STUDENT, LLM_TEACHER, None)
    forward, reverse = KD(T=1)(both), ReverseKL()(both)
    assert_close(JSD(1e-6)(both) / 1e-6, forward, rtol=1e-4, atol=0)
    assert_close(JSD(1 - 1e-6)(both) / 1e-6, reverse, rtol=1e-4, atol=0)
    assert_close(SkewKL(1e-6)(both), forward, rtol=1e-4, atol=0)
    assert_close(SkewKL(1 - 1e-6)(both), torch.zeros_like(forward), rtol=0, atol=1e-11)
    assert_close(SkewReverseKL(1e-6)(both), reverse, rtol=1e-4, atol=0)
    assert_close(AlphaDivergence(1 - 1e-6)(both), forward, rtol=1e-4, atol=0)
    assert_close(AlphaDivergence(1e-6)(both), reverse, rtol=1e-4, atol=0)


@pytest.mark.parametrize("make", [ReverseKL, JSD, SkewKL, SkewReverseKL, AlphaDivergence])
def test_T2_keeps_the_size_of_the_gradient(make: Callable[..., Term]) -> None:
    """Near the teacher all of them are quadratic, and at high T their gradient no longer depends on T."""
    teacher = LLM_TEACHER
    slopes = []
    for T in (200, 400):
        student = LLM_STUDENT.clone().requires_grad_()
        slopes.append(torch.autograd.grad(make(T=T)(views(student, teacher, None)).sum(), student)[0])
    assert_close(*slopes, rtol=2e-2, atol=1e-4)


def test_a_class_that_the_teacher_rules_out() -> None:
    teacher = LLM_TEACHER.clone()
    teacher[:, 3] = -torch.inf
    assert (ReverseKL()(views(LLM_STUDENT, teacher, None)) == torch.inf).all()
    for term in (JSD(), SkewKL(), SkewReverseKL(), TotalVariation(), AlphaDivergence()):
        student = LLM_STUDENT.clone().requires_grad_()
        value = term(views(student, teacher, None))
        (gradient,) = torch.autograd.grad(value.sum(), student)
        assert torch.isfinite(value).all()
        assert torch.isfinite(gradient).all()


def test_errors() -> None:
    for make in (JSD, SkewKL, SkewReverseKL):
        for wrong in (0, 1, -0.1, "0.5"):
            with pytest.raises(UsageError, match="must "):
                make(wrong)  # type: ignore[arg-type]
    for wrong in (0, 1.0):
        with pytest.raises(UsageError, match="alpha must be neither 0 nor 1"):
            AlphaDivergence(wrong)
