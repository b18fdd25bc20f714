"""Chunked equals the term it wraps, in value and in every derivative, and keeps less."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import grad, jvp
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from limbeck.core.errors import ShapeError, UsageError
from limbeck.core.outputs import Outputs, Views
from limbeck.core.term import Moment, Term
from limbeck.influence.gradients import forward_rules
from limbeck.losses.labels.ce import CE
from limbeck.losses.logits.chunked import Chunked
from limbeck.losses.logits.dist import DIST
from limbeck.losses.logits.dkd import DKD
from limbeck.losses.logits.entropy import Entropy
from limbeck.losses.logits.first import FIRST
from limbeck.losses.logits.jsd import JSD
from limbeck.losses.logits.kd import KD
from limbeck.losses.logits.opsd import OPSD
from limbeck.losses.logits.public import Public
from limbeck.losses.logits.ranked import Ranked
from limbeck.losses.logits.reversekl import ReverseKL
from limbeck.losses.logits.sampledkl import SampledKL
from limbeck.losses.logits.standardised import Standardised
from limbeck.losses.logits.swing import Swing
from limbeck.losses.logits.taid import TAID
from limbeck.losses.logits.tokenselect import TokenSelect
from limbeck.losses.logits.uld import ULD
from support.makers import normal, random_views, token_views, views

TERMS: list[Callable[[], Term]] = [CE, DKD, Entropy, FIRST, JSD, KD, OPSD, ReverseKL, Swing, TAID, ULD]


def at(term: Term, both: Views, logits: Tensor) -> Tensor:
    value: Tensor = term(replace(both, student=Outputs(logits)))
    return value


@pytest.mark.parametrize("make", TERMS)
def test_any_term_keeps_its_value_and_gradient(make: Callable[[], Term]) -> None:
    both = token_views(rows=3, length=5)
    assert both.batch.mask is not None
    assert both.batch.targets is not None
    both = replace(both, batch=replace(both.batch, targets=both.batch.targets.where(both.batch.mask, -100)))
    logits = both.student.logits.requires_grad_()
    plain, cut = at(make(), both, logits), at(Chunked(make(), size=4), both, logits)
    assert_close(cut, plain, rtol=1e-12, atol=1e-14)
    assert_close(*(torch.autograd.grad(value.sum(), logits)[0] for value in (cut, plain)), rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("length", range(1, 8))
@pytest.mark.parametrize("size", [1, 3, 4, 100])
def test_every_length_and_size(length: int, size: int) -> None:
    both = token_views(rows=2, length=length)
    assert_close(Chunked(JSD(), size)(both), JSD()(both), rtol=1e-12, atol=1e-14)
    unmasked = replace(both, batch=replace(both.batch, mask=None))
    assert_close(Chunked(JSD(), size)(unmasked), JSD()(unmasked), rtol=1e-12, atol=1e-14)


def test_derivatives_under_function_transforms() -> None:
    forward_rules()
    both = token_views(rows=2, length=3)
    logits, along = both.student.logits, normal(2, 3, 5, seed=9)
    pairs = []
    for term in (Chunked(ReverseKL(), 2), ReverseKL()):

        def loss(where: Tensor, term: Term = term) -> Tensor:
            return at(term, both, where).sum()

        pairs.append((grad(loss)(logits), jvp(grad(loss), (logits,), (along,))[1]))
    assert_close(*pairs, rtol=1e-10, atol=1e-13)


class Largest(TorchDispatchMode):
    """The most elements of any floating tensor that an operation makes, but for those of the backward pass's own result."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        fresh = "view" not in str(func) and "detach" not in str(func) and "split" not in str(func) and "alias" not in str(func)
        if fresh and isinstance(result, Tensor):
            self.elements = max(self.elements, result.numel())
        return result


def kept_for_backward(term: Term, both: Views, logits: Tensor) -> int:
    """Elements of all that the graph keeps beside the logits themselves."""
    known = {logits.data_ptr()} | ({both.teacher.logits.data_ptr()} if both.teacher is not None else set())
    counted: list[int] = []

    def note(saved: Tensor) -> Tensor:
        counted.append(0 if saved.untyped_storage().data_ptr() in known else saved.numel())
        return saved

    with torch.autograd.graph.saved_tensors_hooks(note, lambda saved: saved):
        at(term, both, logits)
    return sum(counted)


def test_no_temporary_has_the_size_of_all_logits_and_none_is_kept() -> None:
    both = token_views(rows=2, length=32, classes=64)
    logits = both.student.logits.clone().requires_grad_()
    with Largest() as plain:
        at(KD(), both, logits)
    with Largest() as cut:
        at(Chunked(KD(), size=8), both, logits)
    assert plain.elements == 2 * 32 * 64
    assert cut.elements == 8 * 64
    assert kept_for_backward(KD(), both, logits) >= 2 * 32 * 64
    assert kept_for_backward(Chunked(KD(), size=8), both, logits) <= 2 * 32 * 4


def test_moments_and_memory_reach_the_inner_term() -> None:
    inner = TAID(start=0.1)
    term, both = Chunked(inner, size=4), token_views()
    assert term.remembers
    for step in range(2):
        term.at(Moment(step, 2, 0.0))
        term.remember(both)
    assert float(inner.t) == pytest.approx(0.55)  # 0.1 + (1 - 0.1) 1 / 2
    assert "term.t" in term.state_dict()


def test_columns_of_masked_tokens_are_not_looked_at() -> None:
    both = token_views(rows=3, length=5)
    assert both.batch.mask is not None
    soiled = {"privacy": both.batch.meta["privacy"].where(both.batch.mask, torch.nan)}
    both = replace(both, batch=replace(both.batch, meta=soiled))
    assert_close(Chunked(Swing(), size=4)(both), Swing()(both), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("wrapped", [Chunked, TokenSelect, Public, Standardised])
def test_a_wrapped_term_says_of_itself_what_the_inner_one_says(wrapped: Callable[[Term], Term]) -> None:
    assert wrapped(ULD()).crosses
    assert not wrapped(KD()).crosses
    assert not wrapped(Ranked()).rests
    assert not wrapped(Swing()).compiles
    assert wrapped(SampledKL(T=2)).drawn == 2


def test_what_cannot_be_cut_is_refused() -> None:
    with pytest.raises(UsageError, match="Chunked: takes a term on logits that looks at each position alone, got DIST"):
        Chunked(DIST())
    with pytest.raises(ShapeError, match="TokenSelect: logits must be"):
        Chunked(TokenSelect())(token_views())
    with pytest.raises(ShapeError, match="Chunked: logits must be"):
        Chunked()(random_views())
    with pytest.raises(ShapeError, match="stand at other positions"):
        Chunked(ULD())(views(normal(2, 3, 4), normal(2, 5, 4), None))
    with pytest.raises(UsageError, match="size must be"):
        Chunked(KD(), size=0)
