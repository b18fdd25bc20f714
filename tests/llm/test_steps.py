"""Steps on rollouts: which texts they train on, what they refuse, and that a resumed run goes on with the same ones."""

from collections.abc import Callable
from itertools import count, pairwise
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from limbeck.core.batch import Batch
from limbeck.core.errors import UsageError
from limbeck.core.term import Term
from limbeck.data.loader import Loader, whole
from limbeck.data.seeding import generator_for
from limbeck.data.tokens import Bytes
from limbeck.llm.adaptivereplay import AdaptiveReplay, Threshold
from limbeck.llm.completions import STREAM, Completions
from limbeck.llm.onpolicy import OnPolicy
from limbeck.llm.rollouts import generate
from limbeck.llm.withtext import WithText
from limbeck.losses.drawn import DRAWN
from limbeck.losses.labels.ce import CE
from limbeck.losses.logits.jsd import JSD
from limbeck.losses.logits.minillm import MiniLLM
from limbeck.losses.logits.reversekl import ReverseKL
from limbeck.losses.logits.sampledkl import SampledKL
from limbeck.losses.logits.tokenselect import TokenSelect
from limbeck.losses.logits.trrd import TRRD
from limbeck.training.averages.average import validation_loss
from limbeck.training.checkpoint import Keeper
from limbeck.training.steps.student import Student
from limbeck.training.training import Update
from support.letters import BATCH, LENGTH, net, same, source, state, train


def own(batch: Batch) -> bool:
    """Whether these are the data's own texts."""
    data = source()
    return torch.equal(batch.inputs, data.read(batch.index)[0])


def test_a_share_of_0_is_the_plain_step() -> None:
    assert same(state(train(OnPolicy(0.0))[0]), state(train(Student())[0]))


def test_the_first_step_is_on_what_the_student_writes() -> None:
    """Beside `generate` on the student as it begins, row by row: prompt as given, what follows is its own and alone counts."""
    _, seen = train(OnPolicy(1.0, length=5), steps=1)
    found, data, student = seen.records[0].batch, source(), net(1).eval()
    for place, row in enumerate(found.index.tolist()):
        known = row % 3 + 1
        wrote = generate(
            student,
            data.read(torch.tensor([row]))[0],
            torch.tensor([known]),
            length=min(5, LENGTH + 1 - known),
            generators=[generator_for(3, STREAM, 0, 1 + row)],
            eos=Bytes.eos,
            pad=Bytes.pad,
        )
        width = wrote.ids.shape[1]
        assert torch.equal(found.inputs[place, :width], wrote.ids[0, :LENGTH])
        assert found.targets is not None
        assert found.mask is not None
        assert torch.equal(found.targets[place, : width - 1], wrote.ids[0, 1:])
        assert torch.equal(found.mask[place, : width - 1], wrote.mask[0, 1:])
        assert not found.mask[place, width - 1 :].any()
        assert set(found.targets[place, width - 1 :].tolist()) <= {Bytes.pad}
    assert found.mask.any(1).all()


def test_the_teacher_writes_what_the_teacher_would() -> None:
    _, seen = train(OnPolicy(1.0, "teacher", temperature=0.0), CE() + JSD(), steps=1)
    found, teacher = seen.records[0].batch, net(2).eval()
    assert found.targets is not None
    with torch.no_grad():
        expected = teacher(found.inputs).argmax(-1)
    assert torch.equal(found.targets[found.mask], expected[found.mask])


def test_context_keeps_the_beginning_of_rows() -> None:
    _, seen = train(OnPolicy(1.0, context=6), steps=1)
    found = seen.records[0].batch
    assert found.mask is not None
    assert torch.equal(found.inputs[:, :6], source().read(found.index)[0][:, :6])
    assert not found.mask[:, :5].any()
    assert found.mask[:, 5].all()


def test_a_prompt_ends_before_the_last_token_that_counts_whatever_the_context() -> None:
    """Rows of 8 places whose texts end after 3, 5 and 8 tokens: what fills them up is no prompt."""
    data, ends = source(), torch.tensor([3, 5, 8])
    batch = whole(data, torch.arange(3), data.labels)
    assert batch.mask is not None
    batch = Batch(batch.inputs, batch.targets, batch.index, batch.mask & (torch.arange(LENGTH) < ends.unsqueeze(1)))
    loader = Loader(data, torch.arange(3), batch_size=3, seed=3, labels=data.labels)
    student = net(1).eval()
    found = Completions("here", 1, 1.0, 1.0, 6).write(student, batch, loader, 0)
    assert found.mask is not None
    assert found.mask.int().argmax(1).tolist() == [2, 4, 5]
    assert all(torch.equal(found.inputs[row, :known], batch.inputs[row, :known]) for row, known in enumerate([3, 5, 6]))


def test_a_loss_on_drawn_tokens_is_for_what_the_student_draws() -> None:
    """SampledKL reads the rollout's own tokens as labels: taken where they are the student's at its T, refused elsewhere."""
    _, seen = train(OnPolicy(1.0, temperature=0.7), TokenSelect(SampledKL(T=0.7), "uncertain") + JSD(), steps=1)
    assert not own(seen.records[0].batch)
    tokens = "SampledKL.* needs tokens that the student draws in every step"
    for step in (OnPolicy(0.5), OnPolicy(1.0, end=0.0), OnPolicy(1.0, "teacher"), AdaptiveReplay()):
        with pytest.raises(UsageError, match=tokens):
            train(step, SampledKL())
    for step in (OnPolicy(1.0, temperature=0.7), OnPolicy(1.0, top_p=0.9)):
        with pytest.raises(UsageError, match="drawn of all at temperature 1, but OnPolicy draws"):
            train(step, SampledKL())
    for step in (Student(), WithText(Student())):
        with pytest.raises(UsageError, match="fit: SampledKL would take the data's tokens for such as the student drew"):
            train(step, SampledKL() + JSD())
    with pytest.raises(UsageError, match="a text is learnt by terms that read logits and labels only"):
        WithText(OnPolicy(1.0), objective=SampledKL())


def test_the_share_is_a_chance_and_goes_in_a_line() -> None:
    _, seen = train(OnPolicy(0.5, length=1), steps=40)
    mixed = [own(record.batch) for record in seen.records]
    assert 8 < sum(mixed) < 32  # 20 with a standard deviation of 3.2
    assert seen.records[-1].figures["written_steps"] == 40 - sum(mixed)
    step = OnPolicy(0.2, end=1.0)
    assert [step.chance_at(number, 5) for number in range(5)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])


def test_the_threshold_of_the_sheet() -> None:
    """Losses 2.0, 2.05, 2.2, 2.35: phi = 0, 0, 0.1, 0.2 (llm-classics: the loss compared with stays 2.0, then 2.2, 2.35)."""
    threshold, found = Threshold(), []
    for loss in [2.0, 2.05, 2.2, 2.35]:
        threshold.see(loss)
        found.append((threshold.value, threshold.loss))
    assert found == [(0.0, 2.0), (0.0, 2.0), (0.1, 2.2), (0.2, 2.35)]
    for loss in range(3, 20):
        threshold.see(float(loss))
    assert threshold.value == 1.0


def test_the_choice_by_hand() -> None:
    """phi = 0.4 at 3/4 of the run: s = 0.1."""
    threshold = Threshold()
    threshold.value = 0.4
    assert [threshold.choose(u, 0.75, full=True) for u in (0.05, 0.2, 0.5)] == ["write", "replay", "data"]
    assert [threshold.choose(u, 0.75, full=False) for u in (0.05, 0.2, 0.5)] == ["write", "write", "data"]


def adaptive() -> AdaptiveReplay:
    return AdaptiveReplay(capacity=10, every=1, rise=0.5, length=3)


@pytest.fixture
def rising(monkeypatch: pytest.MonkeyPatch) -> None:
    """A validation loss that rises by 1 at every look."""
    looks = count()
    monkeypatch.setattr("limbeck.llm.adaptivereplay.validation_loss", lambda distiller, batch: float(next(looks)))


def test_the_validation_loss_is_the_label_loss_on_queries() -> None:
    training, _ = train(AdaptiveReplay(), steps=1)
    queries, student = training.queries, training.distiller.student.model
    assert queries is not None
    assert queries.targets is not None
    assert queries.mask is not None
    found = validation_loss(training.distiller, queries)
    assert student.training
    with torch.no_grad():
        log_p = student.eval()(queries.inputs).log_softmax(-1)
    rows = [
        -sum(float(log_p[row, place, queries.targets[row, place]]) for place in range(LENGTH) if queries.mask[row, place])
        / int(queries.mask[row].sum())
        for row in range(4)
    ]
    assert found == pytest.approx(sum(rows) / 4, rel=1e-6)


@pytest.mark.usefixtures("rising")
def test_replayed_rows_are_rows_that_were_written() -> None:
    _, seen = train(adaptive(), steps=24)
    last = seen.records[-1].figures
    assert last["written_steps"] > 0
    assert last["replayed_steps"] > 0
    assert last["threshold"] == 1.0
    written: set[tuple[int, ...]] = set()
    before = {"written_steps": 0.0, "replayed_steps": 0.0}
    for record in seen.records:
        texts = {tuple(row) for row in torch.cat([record.batch.index.unsqueeze(1), record.batch.inputs], 1).tolist()}
        if record.figures["written_steps"] > before["written_steps"]:
            written |= texts
        elif record.figures["replayed_steps"] > before["replayed_steps"]:
            assert texts <= written
            assert len(texts) == BATCH
        else:
            assert own(record.batch)
        before = record.figures


RESUMED: dict[str, tuple[Callable[[], Update], Term]] = {
    "onpolicy": (lambda: OnPolicy(0.5, length=4), JSD()),
    "reused": (lambda: OnPolicy(1.0, "both", reuse=4, length=4), MiniLLM()),
    "adaptive": (adaptive, JSD()),
}


@pytest.mark.slow
@pytest.mark.usefixtures("rising")
@pytest.mark.parametrize("kind", RESUMED)
def test_it_is_resumed_exactly(kind: str, tmp_path: Path) -> None:
    step, term = RESUMED[kind]
    whole_run, seen = train(step(), term, steps=18)
    path = tmp_path / "a.pt"
    train(step(), term, steps=18, keeper=Keeper(path, every=11, pause_s=0.0))
    resumed, rest = train(step(), term, steps=18, keeper=Keeper(path, every=11, pause_s=0.0))
    assert len(rest.records) == 7
    assert same(state(whole_run), state(resumed))
    assert seen.records[-1].figures == rest.records[-1].figures


def test_cutting_the_batch_changes_nothing_that_is_written() -> None:
    first, second = (train(OnPolicy(1.0), steps=1, accumulate=parts)[1].records[0].batch for parts in (1, 3))
    assert torch.equal(first.inputs, second.inputs)


def test_the_drawn_column_says_how_probable_the_tokens_were() -> None:
    """0.25 p + 0.75 q of the nets as they begin, which do not look at what follows."""
    _, seen = train(OnPolicy(1.0, "both", mix=0.25), MiniLLM(), steps=1)
    found = seen.records[0].batch
    assert found.targets is not None
    assert found.mask is not None
    with torch.no_grad():
        q, p = (net(seed).eval()(found.inputs).softmax(-1) for seed in (1, 2))
    expected = (0.25 * p + 0.75 * q).gather(-1, found.targets.unsqueeze(-1)).squeeze(-1).log()
    assert_close(found.meta[DRAWN][found.mask], expected[found.mask])
    assert (found.meta[DRAWN][~found.mask] == 0).all()


def test_completions_are_used_again_and_then_written_anew() -> None:
    _, seen = train(OnPolicy(1.0, reuse=3), steps=7)
    batches = [record.batch.inputs for record in seen.records]
    again = [torch.equal(one, other) for one, other in pairwise(batches)]
    assert again == [True, True, False, True, True, False]


def test_on_policy_without_a_lag_has_the_gradient_of_the_first_part_where_nothing_follows() -> None:
    """Completions of one token: MiniLLM is then the reverse divergence, as long as the student is the one that wrote."""
    plain, found = (
        train(OnPolicy(1.0, length=1), term, steps=1, dropout=0.0)[0] for term in (ReverseKL(), MiniLLM(whiten=False))
    )
    assert all(torch.allclose(one, other, atol=1e-6) for one, other in zip(state(plain), state(found), strict=True))


def test_terms_on_drawn_tokens_need_all_of_them() -> None:
    for step in (OnPolicy(0.5), OnPolicy(1.0, end=0.0), OnPolicy(1.0, "teacher"), AdaptiveReplay()):
        with pytest.raises(UsageError, match="MiniLLM needs tokens that the student draws in every step"):
            train(step, MiniLLM())
    for step in (OnPolicy(1.0, "both"), OnPolicy(1.0, reuse=2)):  # without a ratio only fresh tokens of the student's own will do
        with pytest.raises(UsageError, match="SampledKL needs tokens that the student draws in every step"):
            train(step, SampledKL())
    with pytest.raises(UsageError, match="OnPolicy: TRRD needs rewards, which this step does not ask for"):
        train(OnPolicy(1.0), TRRD())
    with pytest.raises(UsageError, match="the mixture of both is drawn from as it is"):
        train(OnPolicy(0.5, "both", top_p=0.9))


def test_what_is_refused() -> None:
    with pytest.raises(UsageError, match="OnPolicy: CE would take what the student wrote for the truth"):
        train(OnPolicy(), CE() + JSD())
    with pytest.raises(UsageError, match="OnPolicy: context=9 leaves no room in rows of 8 tokens"):
        train(OnPolicy(context=9))
    with pytest.raises(UsageError, match="AdaptiveReplay: the threshold needs a query set"):
        train(AdaptiveReplay(), queries=None)
    for wrong in (
        {"share": 1.1},
        {"source": "nobody"},
        {"length": 0},
        {"top_p": 0.0},
        {"temperature": -1.0},
        {"context": 0},
        {"mix": 1.0},
        {"reuse": 0},
    ):
        with pytest.raises(UsageError, match=f"OnPolicy: {next(iter(wrong))} must"):
            OnPolicy(**wrong)
    for wrong in ({"capacity": 0}, {"every": 0}, {"rise": 0.0}, {"tolerance": -1.0}):
        with pytest.raises(UsageError, match=f"{next(iter(wrong))} must"):
            AdaptiveReplay(**wrong)


def test_columns_of_the_datas_own_tokens_are_refused() -> None:
    data = source()
    loader = Loader(data, torch.arange(6), batch_size=6, seed=0, labels=data.labels)
    batch = next(iter(loader))
    marked = Batch(batch.inputs, batch.targets, batch.index, batch.mask, {"privacy": torch.ones(6)})
    with pytest.raises(UsageError, match="OnPolicy: privacy belong to the tokens of the data"):
        OnPolicy(0.0).completions.check_columns(marked)
