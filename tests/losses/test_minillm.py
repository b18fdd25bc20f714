"""MiniLLM: the sheet's numbers, the exact gradient of the divergence between texts, and the clip."""

import math
from itertools import product

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from limbeck.core.errors import ShapeError, UsageError
from limbeck.losses.drawn import DRAWN
from limbeck.losses.logits.minillm import MiniLLM
from limbeck.testing.makers import normal, views

TEACHER = torch.tensor([[2.0, 1.0, 0.5, -1.0], [0.0, 0.0, 3.0, 1.0]], dtype=torch.float64)
STUDENT = torch.tensor([[1.0, 1.5, 0.0, -0.5], [0.5, -0.5, 1.0, 2.0]], dtype=torch.float64)
KL = [0.243138, 0.896409]
"""KL(q || p) of the rows (llm-classics)."""


def value(
    term: MiniLLM, student: Tensor, teacher: Tensor, tokens: list[int], drawn: Tensor, mask: list[bool] | None = None
) -> Tensor:
    """The term on one text."""
    counted = None if mask is None else torch.tensor([mask])
    both = views(student[None], teacher[None], torch.tensor([tokens]), counted, {DRAWN: drawn[None]})
    found: Tensor = term(both)
    return found[0]


def own(logits: Tensor, tokens: list[int]) -> Tensor:
    return logits.log_softmax(-1).gather(-1, torch.tensor(tokens).unsqueeze(-1)).squeeze(-1)


def test_a_single_token_is_its_divergence_by_its_importance() -> None:
    """Drawn from 0.2 p + 0.8 q: weights 0.836892, 1.125982, 0.961985, 1.125982 (llm-classics); nothing follows, so A = 0."""
    mixed = torch.tensor([[0.368826, 0.451967, 0.118040, 0.061167]], dtype=torch.float64).log()
    for token, weight in enumerate([0.836892, 1.125982, 0.961985, 1.125982]):
        found = value(MiniLLM(whiten=False), STUDENT[:1], TEACHER[:1], [token], mixed[:, token])
        assert float(found) == pytest.approx(weight * KL[0], abs=2e-6)


def test_golden_text_of_two_tokens() -> None:
    """Tokens 0, 2: r_2 = log p_2 - log q_2 = (3 - ln(2 + e^3 + e)) - (1 - ln(e^.5 + e^-.5 + e + e^2)); A = r_2, 0."""
    log_p, log_q = (
        3 - math.log(2 + math.exp(3) + math.e),
        1 - math.log(math.exp(0.5) + math.exp(-0.5) + math.e + math.exp(2)),
    )
    drawn = own(STUDENT, [0, 2])
    found = value(MiniLLM(whiten=False), STUDENT, TEACHER, [0, 2], drawn)
    assert float(found) == pytest.approx((KL[0] - (log_p - log_q) + KL[1]) / 2, abs=1e-6)
    # Whitened, A = +1 and -1, so that the ratios of 1 cancel out.
    assert float(value(MiniLLM(), STUDENT, TEACHER, [0, 2], drawn)) == pytest.approx(sum(KL) / 2, abs=1e-6)


def test_what_follows_is_meant_by_token_unless_told_otherwise() -> None:
    """r = 0.5, -0.2, 0.1, 0.4: behind the first token mean 0.1 and sum 0.3 (llm-classics), behind the last nothing."""
    rewards, mask = torch.tensor([[0.5, -0.2, 0.1, 0.4]], dtype=torch.float64), torch.ones(1, 4, dtype=torch.bool)
    found, summed = (MiniLLM(whiten=False, normalise=mean).advantage(rewards, mask) for mean in (True, False))
    assert_close(found, torch.tensor([[0.1, 0.25, 0.4, 0.0]], dtype=torch.float64))
    assert_close(summed, torch.tensor([[0.3, 0.5, 0.4, 0.0]], dtype=torch.float64))


def test_its_expected_gradient_is_that_of_the_divergence_between_texts() -> None:
    """All 27 texts of 3 tokens out of 3, each with its probability; nets are tables with a row for every beginning."""
    length, vocabulary = 3, 3
    beginnings = [text for count in range(length) for text in product(range(vocabulary), repeat=count)]
    student = normal(len(beginnings), vocabulary, seed=1).requires_grad_()
    teacher = normal(len(beginnings), vocabulary, seed=2)
    term, expected, divergence = MiniLLM(whiten=False, normalise=False), [], []
    for text in map(list, product(range(vocabulary), repeat=length)):
        rows = [beginnings.index(tuple(text[:count])) for count in range(length)]
        log_q, log_p = own(student[rows], text).sum(), own(teacher[rows], text).sum()
        drawn = own(student[rows], text).detach()
        expected.append(log_q.exp().detach() * length * value(term, student[rows], teacher[rows], text, drawn))
        divergence.append(log_q.exp() * (log_q - log_p))
    found, wanted = (torch.autograd.grad(sum(part), student)[0] for part in (expected, divergence))
    assert_close(found, wanted, rtol=1e-12, atol=1e-12)


def test_a_ratio_beyond_the_clip_moves_the_policy_no_further() -> None:
    """The token was drawn at half its present probability and what follows is good: the second part is flat."""
    student = STUDENT.clone().requires_grad_()
    teacher = STUDENT.clone()
    teacher[1, 2] += 3.0  # the second token, 2, is one that the teacher likes: A_1 > 0
    found = value(MiniLLM(whiten=False), student, teacher, [0, 2], own(STUDENT, [0, 2]) - math.log(2))
    (slope,) = torch.autograd.grad(found, student)
    assert_close(slope[0], torch.zeros(4, dtype=torch.float64))  # p = q there, so the first part is flat too
    assert bool((slope[1] != 0).any())


def test_a_token_that_the_teacher_rules_out_is_bad_and_finite() -> None:
    reward = torch.tensor([[0.0, -torch.inf]])
    assert MiniLLM(whiten=False).advantage(reward, torch.ones(1, 2, dtype=torch.bool)).tolist() == [[-100.0, 0.0]]


def test_what_is_refused() -> None:
    with pytest.raises(
        UsageError, match="MiniLLM is for completions that a step has written, but this batch has no column 'log_drawn'"
    ):
        MiniLLM()(views(STUDENT[None], TEACHER[None], torch.zeros(1, 2, dtype=torch.int64)))
    with pytest.raises(ShapeError, match=r"MiniLLM: the column 'log_drawn' must be \[1, 2\], got \[1, 1\]"):
        value(MiniLLM(), STUDENT, TEACHER, [0, 2], torch.zeros(1))
    with pytest.raises(UsageError, match="MiniLLM: clip must"):
        MiniLLM(0.0)
