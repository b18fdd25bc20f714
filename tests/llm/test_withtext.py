"""WithText: the gradient that it adds, where the text comes from, and what it refuses."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from limbeck.core.errors import UsageError
from limbeck.llm.onpolicy import OnPolicy
from limbeck.llm.withtext import WithText
from limbeck.losses.labels.ce import CE
from limbeck.losses.logits.jsd import JSD
from limbeck.losses.logits.kd import KD
from limbeck.losses.logits.minillm import MiniLLM
from limbeck.losses.logits.trrd import TRRD
from limbeck.training.checkpoint import Keeper
from limbeck.training.steps.student import Student
from support.letters import same, state, train


@pytest.fixture
def in_float64() -> Iterator[None]:
    """Nets in float64: Adam makes steps of gradients that are 0 but for rounding."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("in_float64")
@pytest.mark.parametrize("parts", [1, 3])
def test_on_the_datas_own_rows_it_is_one_more_term(parts: int) -> None:
    together = CE() * 0.3 + KD(T=1) * 0.2
    found, seen = train(WithText(Student(), None, together), JSD(), steps=2, dropout=0.0, accumulate=parts)
    wanted, _ = train(Student(), JSD() + together, steps=2, dropout=0.0)
    for one, other in zip(state(found), state(wanted), strict=True):
        assert_close(one, other, rtol=1e-8, atol=1e-8)
    assert seen.records[0].figures["text_loss"] > 0


def test_a_file_is_read_as_the_data_is_and_gone_on_with(tmp_path: Path) -> None:
    """Its loss falls beside MiniLLM's, whose students see none of its text; and a resumed run ends in the same bytes."""
    text, path = tmp_path / "plain.txt", tmp_path / "a.pt"
    text.write_text("abcabcabc" * 40)

    def step() -> WithText:
        return WithText(OnPolicy(1.0, "both", length=3, reuse=2), text)

    whole_run, seen = train(step(), MiniLLM(), steps=15)
    losses = [record.figures["text_loss"] for record in seen.records]
    assert losses[-1] < losses[0] - 1
    train(step(), MiniLLM(), steps=15, keeper=Keeper(path, every=10, pause_s=0.0))
    resumed, _ = train(step(), MiniLLM(), steps=15, keeper=Keeper(path, every=10, pause_s=0.0))
    assert same(state(whole_run), state(resumed))


def test_what_is_refused() -> None:
    with pytest.raises(UsageError, match="WithText: a text is learnt by terms that read logits and labels only, got TRRD"):
        WithText(Student(), None, TRRD())
    with pytest.raises(UsageError, match="OnPolicy: CE would take what the student wrote for the truth"):
        train(WithText(OnPolicy(1.0)), CE())
