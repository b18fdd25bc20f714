"""TopKTail: exact where all classes are kept, by hand where they are not, and a bound from below in between."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.testing import assert_close

from limbeck.core.errors import ShapeError, UsageError
from limbeck.core.outputs import Outputs, Views
from limbeck.core.term import Term
from limbeck.core.topk import TopK
from limbeck.distiller import Distiller
from limbeck.functional.topk import fewer, rest_of, top_k
from limbeck.losses.logits.alphadivergence import AlphaDivergence
from limbeck.losses.logits.dist import DIST
from limbeck.losses.logits.jsd import JSD
from limbeck.losses.logits.kd import KD
from limbeck.losses.logits.reversekl import ReverseKL
from limbeck.losses.logits.skewkl import SkewKL
from limbeck.losses.logits.skewreversekl import SkewReverseKL
from limbeck.losses.logits.standardised import Standardised
from limbeck.losses.logits.topktail import TopKTail
from limbeck.losses.logits.totalvariation import TotalVariation
from limbeck.teachers.single import Single
from support.makers import normal, random_views, token_views, views

TERMS: list[Term] = [
    KD(T=1),
    KD(T=3),
    ReverseKL(),
    JSD(beta=0.3, T=2),
    SkewKL(),
    SkewReverseKL(T=0.5),
    TotalVariation(),
    AlphaDivergence(alpha=0.5),
    AlphaDivergence(alpha=1.7),
]


def known_only(both: Views, k: int, T: float) -> Views:
    """The same views from a teacher that knows its most probable classes only."""
    assert both.teacher is not None
    logits = both.teacher.logits
    return replace(both, teacher=Outputs(logits[..., :0], sparse=top_k(logits, k, T)))


def lumped_by_hand(logits: Tensor, kept: Tensor, T: float) -> Tensor:
    """Logits whose softmax at T is softmax(logits / T) with all classes but those kept summed up; slow, row by row."""
    rows = []
    for row, ids in zip(logits.flatten(0, -2), kept.flatten(0, -2), strict=True):
        p = (row / T).softmax(-1)
        others = [c for c in range(len(p)) if c not in ids.tolist()]
        rows.append(T * torch.cat([p[ids], p[others].sum(0, keepdim=True)]).log())
    return torch.stack(rows).view(*logits.shape[:-1], kept.shape[-1] + 1)


@pytest.mark.parametrize("term", TERMS, ids=repr)
@pytest.mark.parametrize("make", [random_views, token_views])
def test_with_all_classes_it_is_the_term_itself(term: Term, make: object) -> None:
    both = make()  # type: ignore[operator]
    T = float(term.T)  # type: ignore[arg-type]
    leaf = both.student.logits.clone().requires_grad_()
    wanted = term(replace(both, student=Outputs(leaf)))
    (slope,) = torch.autograd.grad(wanted.sum(), leaf)
    for seen in (both, known_only(both, 5, T)):
        found = TopKTail(term)(replace(seen, student=Outputs(leaf)))
        assert_close(found, wanted, rtol=1e-12, atol=1e-12)
        assert_close(torch.autograd.grad(found.sum(), leaf)[0], slope, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("term", TERMS, ids=repr)
@pytest.mark.parametrize("k", [1, 3, 4])
def test_with_few_classes_it_is_the_term_on_probabilities_summed_up_by_hand(term: Term, k: int) -> None:
    both = token_views()
    assert both.teacher is not None
    T = float(term.T)  # type: ignore[arg-type]
    kept = both.teacher.logits.topk(k, dim=-1).indices
    slow = replace(
        both,
        student=Outputs(lumped_by_hand(both.student.logits, kept, T)),
        teacher=Outputs(lumped_by_hand(both.teacher.logits, kept, T)),
    )
    wanted = term(slow)
    assert_close(TopKTail(term, k=k)(both), wanted, rtol=1e-10, atol=1e-12)
    assert_close(TopKTail(term)(known_only(both, k, T)), wanted, rtol=1e-10, atol=1e-12)
    assert_close(TopKTail(term, k=k)(known_only(both, 4, T)), wanted, rtol=1e-10, atol=1e-12)


def test_golden_number() -> None:
    # p = (.7, .2, .06, .04), q = (.4, .3, .2, .1), two kept: p' = (.7, .2, .1), q' = (.4, .3, .3).
    # KL = .7 ln(.7/.4) + .2 ln(.2/.3) + .1 ln(.1/.3) = .391731 - .081093 - .109861 = .200777
    # TV = (.3 + .1 + .2) / 2 = .3
    p, q = torch.tensor([[0.7, 0.2, 0.06, 0.04]]).double(), torch.tensor([[0.4, 0.3, 0.2, 0.1]]).double()
    both = views(q.log(), p.log(), None)
    assert float(TopKTail(KD(T=1), k=2)(both)) == pytest.approx(0.200777, abs=5e-7)
    assert float(TopKTail(TotalVariation(), k=2)(both)) == pytest.approx(0.3, abs=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(TERMS))
def test_keeping_more_never_lowers_it_and_all_is_the_most(seed: int, term: Term) -> None:
    both = random_views(seed=seed)
    found = torch.stack([TopKTail(term, k=k)(both) for k in (1, 2, 3, 4, 5)])
    assert (found.diff(dim=0) >= -1e-12).all()
    assert (found >= -1e-12).all()


def test_where_others_are_shared_out_alike_few_classes_are_enough() -> None:
    teacher = torch.tensor([[3.0, 1.0, -1.0, -2.0]]).double()
    student = torch.tensor([[0.5, 2.0, 4.0, 3.0]]).double()  # the last two one apart, as the teacher's are
    both = views(student, teacher, None)
    for term in TERMS:
        assert_close(TopKTail(term if term.T == 1 else KD(T=1), k=2)(both), (term if term.T == 1 else KD(T=1))(both))


def test_the_rest_has_digits_where_one_minus_the_sum_has_none() -> None:
    log_p = torch.tensor([[0.0, -1e-9, -30.0, -31.0]]).log_softmax(-1)
    rest = rest_of(log_p, torch.tensor([[0, 1]]))
    wanted = torch.tensor([[0.0, -1e-9, -30.0, -31.0]]).double().log_softmax(-1)[0, 2:].logsumexp(0)
    assert 1 - log_p[0, :2].exp().sum() == 0
    assert_close(rest.double(), wanted.unsqueeze(0), rtol=1e-6, atol=0)


def test_masked_tokens_never_count() -> None:
    both = token_views()
    mask = both.batch.mask
    assert mask is not None
    mask = mask.clone()
    mask[0] = False
    seen = known_only(replace(both, batch=replace(both.batch, mask=mask)), 2, 1.0)
    assert seen.teacher is not None
    assert seen.teacher.sparse is not None
    wanted = TopKTail(KD(T=1))(seen)
    assert wanted[0] == 0
    none = ~mask
    soiled = seen.teacher.sparse.map(
        lambda part: part.masked_fill(
            none if part.dim() == 2 else none.unsqueeze(-1), torch.nan if part.is_floating_point() else 4
        )
    )
    broken = both.student.logits.masked_fill(none.unsqueeze(2), torch.nan)
    found = TopKTail(KD(T=1))(replace(seen, student=Outputs(broken), teacher=replace(seen.teacher, sparse=soiled)))
    assert_close(found, wanted)
    clean = both.student.logits.clone().requires_grad_()
    (slope,) = torch.autograd.grad(TopKTail(KD(T=1))(replace(seen, student=Outputs(clean))).sum(), clean)
    assert (slope[none] == 0).all()


def test_classes_that_the_teacher_rules_out() -> None:
    teacher = normal(3, 5, seed=1)
    teacher[:, 2:] = -torch.inf
    student = normal(3, 5).requires_grad_()
    both = views(student, teacher, None)
    for k in (2, 3, 4):
        found = TopKTail(KD(T=1), k=k)(both)
        assert_close(found, KD(T=1)(both))
        assert torch.isfinite(torch.autograd.grad(found.sum(), student)[0]).all()


def test_views_are_cut_joined_and_moved_with_what_is_sparse() -> None:
    seen = known_only(token_views(), 2, 3.0).teacher
    assert seen is not None
    joined = Outputs.concat([seen.take(slice(0, 2)), seen.take(slice(2, None))]).detach().map(Tensor.float)
    assert joined.sparse is not None
    assert seen.sparse is not None
    assert (joined.sparse.T, joined.sparse.classes, joined.classes) == (3.0, 5, 5)
    assert joined.sparse.ids.dtype == torch.int64
    assert torch.equal(joined.sparse.ids, seen.sparse.ids)
    assert torch.equal(joined.sparse.tail, seen.sparse.tail.float())
    assert torch.equal(joined.sparse.log_probs, seen.sparse.log_probs.float())
    with pytest.raises(ShapeError, match="same temperature"):
        TopK.concat([seen.sparse, replace(seen.sparse, T=1.0)])
    with pytest.raises(ShapeError, match=r"ids \[6, 4, 2\]"):
        TopK(seen.sparse.ids, seen.sparse.log_probs, seen.sparse.tail[:, :2])


def test_fewer_of_few_are_fewer_of_all() -> None:
    logits = normal(4, 7)
    for k in (1, 3):
        found, wanted = fewer(top_k(logits, 5, 2.0), k), top_k(logits, k, 2.0)
        assert torch.equal(found.ids, wanted.ids)
        assert_close(found.log_probs, wanted.log_probs)
        assert_close(found.tail, wanted.tail)


def test_what_is_refused() -> None:
    both = random_views()
    for term in (DIST(), Standardised(KD()), TopKTail()):
        with pytest.raises(UsageError, match="needs all of the teacher's logits"):
            TopKTail(term)
    with pytest.raises(UsageError, match="TopKTail: k must be a whole number"):
        TopKTail(KD(), k=0)
    with pytest.raises(UsageError, match="k is 9, but only 5 classes are known"):
        TopKTail(KD(), k=9)(both)
    with pytest.raises(UsageError, match="k is 3, but only 2 classes are known"):
        TopKTail(KD(T=1), k=3)(known_only(both, 2, 1.0))
    with pytest.raises(UsageError, match="compares at temperature 4, but the teacher's probabilities were taken at 1"):
        TopKTail(KD(T=4))(known_only(both, 2, 1.0))
    with pytest.raises(ShapeError, match=r"student logits \[6, 5\] do not fit the 2 most probable of 4 classes"):
        TopKTail(KD(T=1))(replace(both, teacher=Outputs(torch.zeros(6, 0), sparse=top_k(torch.zeros(6, 4), 2))))
    with pytest.raises(ShapeError, match="TopKTail: student logits"):
        TopKTail(KD(T=1))(replace(both, teacher=Outputs(torch.zeros(6, 4))))


class Sparse(Single):  # type: ignore[misc]  # of tests only
    """Knows two classes."""

    offers = frozenset({"topk"})

    def forward(self, batch: object) -> Outputs:
        logits = super().forward(batch).logits  # type: ignore[arg-type]
        return Outputs(logits[..., :0], sparse=replace(top_k(logits, 2), classes=None))


def test_a_distiller_refuses_what_its_teacher_does_not_offer() -> None:
    torch.manual_seed(0)
    student, teacher = nn.Linear(1, 5), Sparse(nn.Linear(1, 5))
    with pytest.raises(
        UsageError, match=r"KD\(T=1\) reads the teacher's logits, but Sparse offers topk only; write TopKTail\(KD"
    ):
        Distiller(student, teacher, KD(T=1))
    with pytest.raises(UsageError, match=r"DIST.* offers topk only; write TopKTail\(KD\(T=1\)\), or take a teacher with all"):
        Distiller(student, teacher, DIST())
    batch = replace(random_views().batch, inputs=torch.rand(6, 1))
    distiller = Distiller(student, teacher, TopKTail(KD(T=1)))
    distiller.check(batch)
    assert_close(distiller(batch).total, Distiller(student, Single(teacher.tapped.model), TopKTail(KD(T=1), k=2))(batch).total)
    with torch.no_grad():
        teacher.tapped.model.bias[3] += 9
        teacher.tapped.model.bias[4] -= 9
    narrow = Distiller(nn.Linear(1, 2), teacher, TopKTail(KD(T=1)))
    with pytest.raises(ShapeError, match="the student answers for 2 classes, but the teacher speaks of class 3"):
        narrow.check(replace(batch, targets=None))
