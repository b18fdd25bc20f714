"""Swing's temperature per token and the terms that leave private tokens out: the sheet's numbers and limits."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from limbeck.core.errors import ShapeError, UsageError
from limbeck.losses.labels.ce import CE
from limbeck.losses.logits.kd import KD
from limbeck.losses.logits.public import Public
from limbeck.losses.logits.swing import Swing
from support.makers import LLM_STUDENT, LLM_TEACHER, token_views, views


def rows(scores: list[float], high: float = 10.0) -> Tensor:
    both = views(LLM_STUDENT, LLM_TEACHER, None, meta={"privacy": torch.tensor(scores, dtype=torch.float64)})
    value: Tensor = Swing(high=high)(both)
    return value


@pytest.mark.parametrize(
    "scores, wanted", [([0, 0], [0.230487, 0.813638]), ([0, 1], [0.230487, 0.007112]), ([0.5, 1], [0.007278, 0.007112])]
)
def test_golden_numbers(scores: list[float], wanted: list[float]) -> None:
    assert_close(rows(scores), torch.tensor(wanted, dtype=torch.float64), rtol=0, atol=5.1e-7)
    both = views(
        LLM_STUDENT.unsqueeze(0), LLM_TEACHER.unsqueeze(0), None, meta={"privacy": torch.tensor([scores], dtype=torch.float64)}
    )
    assert float(Swing()(both)) == pytest.approx(sum(wanted) / 2, abs=5.1e-7)


def test_public_is_kd_and_private_tends_to_nothing_though_T2_times_it_does_not() -> None:
    assert torch.equal(rows([0, 0]), KD(T=1)(views(LLM_STUDENT, LLM_TEACHER, None)))
    assert (rows([1, 1], high=1e4) < 1e-7).all()
    assert_close(1e8 * rows([1, 1], high=1e4), torch.tensor([0.210938, 0.656250], dtype=torch.float64), rtol=1e-3, atol=0)
    values = [rows([s, 0.3]) for s in (0.0, 0.2, 0.5, 1.0)]
    assert [float(v[0]) for v in values] == sorted((float(v[0]) for v in values), reverse=True)
    assert len({float(v[1]) for v in values}) == 1


def test_a_score_of_a_sample_holds_for_all_its_tokens() -> None:
    both = token_views()
    scores = both.batch.meta["privacy"][:, 0]
    spread = scores.unsqueeze(1).expand(6, 4)
    values = [Swing()(replace(both, batch=replace(both.batch, meta={"privacy": part}))) for part in (scores, spread)]
    assert torch.equal(*values)


def test_public_leaves_private_tokens_out() -> None:
    both = token_views()
    mask = both.batch.mask
    assert mask is not None
    narrowed = replace(both, batch=replace(both.batch, mask=mask & (both.batch.meta["privacy"] < 0.4)))
    assert_close(Public(CE(), below=0.4)(both), CE()(narrowed))
    assert torch.equal(Public(CE(), below=0)(both), torch.zeros(6, dtype=torch.float64))


def test_errors() -> None:
    both = token_views()
    with pytest.raises(UsageError, match="Swing needs the column 'privacy'"):
        Swing()(replace(both, batch=replace(both.batch, meta={})))
    with pytest.raises(UsageError, match=r"privacy must lie in \[0, 1\]"):
        rows([0.5, 1.5])
    with pytest.raises(UsageError, match=r"privacy must lie in \[0, 1\]"):
        rows([0.5, float("nan")])
    with pytest.raises(ShapeError, match=r"privacy must be \[6, 4\]"):
        Swing()(replace(both, batch=replace(both.batch, meta={"privacy": torch.zeros(6, 3)})))
    with pytest.raises(UsageError, match="high must be at least low"):
        Swing(low=2, high=1)
