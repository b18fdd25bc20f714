import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from limbeck.core.errors import UsageError
from limbeck.core.outputs import Outputs, Views
from limbeck.core.topk import TopK
from limbeck.functional.topk import top_k
from limbeck.losses.labels.ce import CE
from limbeck.losses.logits.adpa import ADPA
from limbeck.losses.logits.chunked import Chunked
from limbeck.losses.logits.kd import KD
from limbeck.losses.logits.topktail import TopKTail
from support.makers import LLM_STUDENT, LLM_TEACHER, views

BEFORE = torch.tensor([[1.5, 1.2, 0.4, -0.8], [0.2, 0.1, 2, 1.5]], dtype=torch.float64)
SEQUENCE = torch.tensor([[0, 2]])


def at(student: Tensor = LLM_STUDENT, after: Tensor = LLM_TEACHER, before: Tensor = BEFORE) -> Views:
    """The two places of the sheet as two samples."""
    return views(student, after, None, reference=Outputs(before))


def reply(before: Tensor = BEFORE) -> Views:
    """The same as one reply of two tokens."""
    return views(LLM_STUDENT[None], LLM_TEACHER[None], SEQUENCE, reference=Outputs(before[None]))


def near(found: Tensor, wanted: list[float]) -> None:
    assert_close(found, torch.tensor(wanted, dtype=torch.float64), rtol=0, atol=1e-6)


def slope(term: ADPA, both: Views) -> Tensor:
    logits = both.student.logits.clone().requires_grad_()
    (found,) = torch.autograd.grad(term(Views(Outputs(logits), both.teacher, both.batch)).sum(), logits)
    return found


def test_golden_numbers() -> None:
    near(ADPA()(at()), [0.168504, 0.668491])
    near(ADPA()(reply()), [0.418498])
    near(-ADPA()(at(student=LLM_TEACHER)), [0.048782, 0.184941])  # KL(after || before)
    near(CE()(reply()), [1.345083])
    near((CE() + ADPA() * 1.5).per_sample(reply()), [1.972829])


def test_golden_numbers_of_the_divergence_of_dckd() -> None:
    both = views(LLM_STUDENT, LLM_TEACHER, None)
    near(TopKTail(KD(T=1), k=2)(both), [0.215478, 0.803953])
    near(KD(T=1)(both).mean().unsqueeze(0), [0.522063])


def test_where_the_student_is_sure_of_a_token_the_value_is_its_advantage() -> None:
    wanted = [[0.281363, -0.418637, -0.118637, -0.418637], [-0.757944, -0.657944, 0.442056, -1.057944]]
    for token in range(4):
        sure = 200.0 * torch.nn.functional.one_hot(torch.tensor([token, token]), 4).double()
        near(-ADPA()(at(student=sure)), [row[token] for row in wanted])


def test_a_teacher_that_alignment_did_not_change_teaches_nothing() -> None:
    same = reply(before=LLM_TEACHER + 3)
    near(ADPA()(same), [0.0])
    assert_close(slope(ADPA(), same), torch.zeros(1, 2, 4, dtype=torch.float64))


def moved(by: float, times: float = 1.0) -> Views:
    """Stored answers of both, the reference's numbers such that the advantages are `times` as large, and then larger by `by`."""
    after, none = top_k(LLM_TEACHER, 4), torch.empty(2, 0)
    advantages = after.log_probs - BEFORE.log_softmax(-1).gather(-1, after.ids)
    lower = TopK(after.ids, after.log_probs - times * advantages - by, after.tail, 1.0, 4)
    plain = at()
    return Views(plain.student, Outputs(none, sparse=after, reference=Outputs(none, sparse=lower)), plain.batch)


def test_value_and_gradient_are_linear_in_the_advantages() -> None:
    term = ADPA(fill="smallest")
    assert_close(term(moved(0)), ADPA()(at()))
    assert_close(term(moved(0, times=2.5)), 2.5 * term(moved(0)))
    assert_close(slope(term, moved(0, times=2.5)), 2.5 * slope(term, moved(0)))


def test_alone_its_optimum_is_the_token_of_the_largest_advantage() -> None:
    logits = LLM_STUDENT.clone().requires_grad_()
    for _ in range(200):
        (step,) = torch.autograd.grad(ADPA()(at(student=logits)).sum(), logits)
        logits = (logits - 20 * step).detach().requires_grad_()
    assert_close(logits.detach().softmax(-1), torch.tensor([[1, 0, 0, 0], [0, 0, 1, 0]]).double(), rtol=0, atol=1e-2)


def test_a_constant_moves_the_value_but_the_gradient_of_the_cut_sum_alone() -> None:
    full, cut = ADPA(fill="smallest"), ADPA(k=2, fill="smallest")
    near(full(moved(0.3)) - full(moved(0)), [-0.3, -0.3])
    assert_close(slope(full, moved(0.3)), slope(full, moved(0)))
    assert float((slope(cut, moved(0.3)) - slope(cut, moved(0))).abs().max()) > 0.01


def test_the_sum_over_the_most_probable_by_hand() -> None:
    q, p = LLM_STUDENT.softmax(-1), LLM_TEACHER.softmax(-1)  # the teacher's two: tokens 0 and 1, then 2 and 3
    cases = {"exact": (BEFORE, [(0, 1), (2, 3)]), "smallest": (BEFORE, [(0, 1), (2, 3)])}
    for fill, (before, ids) in cases.items():
        r = before.softmax(-1)
        wanted = [-sum(float(q[t, a] * (p[t, a] / r[t, a]).log()) for a in two) for t, two in enumerate(ids)]
        near(ADPA(k=2, fill=fill)(at(before=before)), wanted)
    other = BEFORE.roll(1, 1)  # its two are 1 and 2, then 3 and 0: the tokens 0 and 2 get the teacher's smallest, p of 1 and of 3
    r = other.softmax(-1)
    wanted = [
        -float(q[0, 0] * (p[0, 0] / p[0, 1]).log() + q[0, 1] * (p[0, 1] / r[0, 1]).log()),
        -float(q[1, 2] * (p[1, 2] / p[1, 3]).log() + q[1, 3] * (p[1, 3] / r[1, 3]).log()),
    ]
    near(ADPA(k=2, fill="smallest")(at(before=other)), wanted)


def test_no_advantage_is_beyond_the_floor() -> None:
    sure = torch.tensor([[50.0, 0, 0, 0]], dtype=torch.float64)
    found = -ADPA()(at(sure.roll(1, 1), sure, sure.roll(1, 1)))
    assert float(found) == pytest.approx(float(torch.tensor(1e-7).double().log()), abs=1e-4)


def test_chunked_hands_the_reference_on() -> None:
    assert_close(Chunked(ADPA(k=2), size=1)(reply()), ADPA(k=2)(reply()))


def test_what_is_refused() -> None:
    with pytest.raises(UsageError, match="has no reference; take Aligned"):
        ADPA()(views(LLM_STUDENT, LLM_TEACHER, None))
    with pytest.raises(UsageError, match='take fill="smallest"'):
        ADPA()(moved(0))
    with pytest.raises(UsageError, match="k is 5, but only 4 classes"):
        ADPA(k=5)(at())
