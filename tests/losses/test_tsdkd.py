"""TSD-KD as a composition: Ranked on the opener, GatedJSD on all tokens, Entropy on the least sure; the sheet's numbers."""

import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from limbeck.core.errors import ShapeError, UsageError
from limbeck.functional.divergences import entropy, log_softmax
from limbeck.losses.logits.entropy import Entropy
from limbeck.losses.logits.gatedjsd import GatedJSD
from limbeck.losses.logits.jsd import JSD
from limbeck.losses.logits.kd import KD
from limbeck.losses.logits.ranked import Ranked
from limbeck.losses.logits.tokenselect import TokenSelect, most, opener
from support.makers import LLM_STUDENT, LLM_TEACHER, normal, random_views, token_views, views

ROWS = views(LLM_STUDENT, LLM_TEACHER, None)
TOKENS = views(LLM_STUDENT.unsqueeze(0), LLM_TEACHER.unsqueeze(0), None)


def near(found: Tensor, wanted: list[float]) -> None:
    assert_close(found, torch.tensor(wanted, dtype=torch.float64), rtol=0, atol=5.1e-7)


def test_golden_numbers() -> None:
    near(entropy(log_softmax(LLM_TEACHER)), [1.014403, 0.672078])
    near(Entropy()(ROWS), [1.137899, 1.057255])
    near(GatedJSD().gate(log_softmax(LLM_TEACHER), log_softmax(LLM_STUDENT)), [0.530835, 0.595121])
    near(GatedJSD()(TOKENS), [0.028604])
    near(Ranked(k=3)(ROWS), [1.305544, 1.665782])
    near(Ranked(k=3)(TOKENS), [1.485663])
    near(TokenSelect(Entropy(), "uncertain", 0.1)(TOKENS), [1.137899])
    whole = Ranked(k=3) * 0.1 + GatedJSD() + TokenSelect(Entropy(), "uncertain", 0.1)
    near(whole.per_sample(TOKENS), [1.315069])


@pytest.mark.parametrize("share, count", [(0.1, 1), (0.4, 1), (0.5, 2), (0.6, 2), (0.999999, 5)])
def test_the_opener(share: float, count: int) -> None:
    values = torch.tensor([[2, 1, 1, 0.5, 0.5]], dtype=torch.float64)
    everything = torch.ones(1, 5, dtype=torch.bool)
    assert opener(values, everything, share).tolist() == [[place < count for place in range(5)]]


def test_the_opener_of_masked_and_certain_samples() -> None:
    values = torch.tensor([[9, 2, 9, 1, 1], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]], dtype=torch.float64)
    mask = torch.tensor([[0, 1, 0, 1, 1], [0, 0, 1, 1, 1], [0, 0, 0, 0, 0]], dtype=torch.bool)
    # 2 of 2 + 1 + 1 is half; where all is certain the first counted token stands for the opener; nothing counted, nothing kept
    wanted = torch.tensor([[0, 1, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 0, 0, 0]], dtype=torch.bool)
    assert torch.equal(opener(values, mask, 0.5), wanted)


@pytest.mark.parametrize("counted, share, wanted", [(30, 0.1, 3), (5, 0.1, 1), (11, 0.1, 2), (0, 0.1, 0), (30, 0.999, 30)])
def test_the_least_sure(counted: int, share: float, wanted: int) -> None:
    values = normal(1, 30)
    mask = torch.arange(30).unsqueeze(0) < counted
    chosen = most(values, mask, share)
    assert int(chosen.sum()) == wanted
    assert not (chosen & ~mask).any()
    if 0 < wanted < counted:
        assert values[chosen].min() > values[mask & ~chosen].max()


def test_a_selected_term_is_the_term_on_fewer_tokens_and_the_choice_has_no_gradient() -> None:
    both = token_views(rows=3, length=6)
    student = both.student.logits.clone().requires_grad_()
    teacher = normal(3, 6, 5, seed=4)
    value = TokenSelect(KD(T=1), "uncertain", 0.01)(views(student, teacher, None))
    place = entropy(log_softmax(student.detach())).argmax(1)
    rows = torch.arange(3)
    assert_close(value, KD(T=1)(views(student[rows, place], teacher[rows, place], None)))
    (slope,) = torch.autograd.grad(value.sum(), student)
    assert int((slope.abs().sum(-1) > 0).sum()) == 3


def test_the_gate_is_a_half_where_the_entropies_agree() -> None:
    order = torch.tensor([3, 0, 2, 1])
    both = views(LLM_TEACHER[:, order], LLM_TEACHER, None)
    assert_close(GatedJSD()(both), JSD(0.9)(both) / 2)
    assert_close(GatedJSD(tau=1e9)(ROWS), JSD(0.9)(ROWS) / 2)


def test_ranking() -> None:
    near(Ranked(k=3)(views(torch.zeros(1, 3).double(), normal(1, 3), None)), [math.log(6)])
    scores = torch.tensor([[3.0, 2, 1]], dtype=torch.float64)
    # In the teacher's order 3, 2, 1: log(1 + 1/e + 1/e^2) + log(1 + 1/e) = 0.407606 + 0.313262. A denominator over the
    # better-ranked ones would give 3.720868 here, and this for the inverse order.
    near(Ranked()(views(scores, scores, None)), [0.720868])
    assert float(Ranked()(views(scores, -scores, None))) == pytest.approx(3.720868, abs=5.1e-7)
    both = random_views()
    assert both.teacher is not None
    plain = Ranked(k=4)(both)
    assert_close(Ranked(k=4)(views(both.student.logits + 7, both.teacher.logits, None)), plain)
    assert_close(Ranked(k=4)(views(both.student.logits, both.teacher.logits.exp() * 3, None)), plain)


def test_errors() -> None:
    with pytest.raises(ShapeError, match="TokenSelect: logits must be"):
        TokenSelect()(random_views())
    with pytest.raises(UsageError, match="by must be one of opener, uncertain"):
        TokenSelect(by="first")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="k must be a whole number of at least 2"):
        Ranked(k=1)
