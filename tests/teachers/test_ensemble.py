"""Several teachers as one: arithmetic and geometric means, and the anchored generations that are made of them."""

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from limbeck.core.batch import Batch
from limbeck.core.errors import ShapeError, UsageError
from limbeck.core.outputs import Outputs
from limbeck.distiller import Distiller
from limbeck.losses.heads.onhead import OnHead
from limbeck.losses.heads.simkd import SimKD
from limbeck.teachers.ensemble import Ensemble
from limbeck.teachers.single import Single
from limbeck.teachers.teacher import Teacher
from support.makers import normal


class Told(Teacher):
    """A teacher that says what it was told."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, batch: Batch) -> Outputs:
        return Outputs(self.logits[batch.index])

    def tap(self, names: tuple[str, ...]) -> None:
        raise AssertionError


BATCH = Batch(torch.zeros(6, 1), None, torch.arange(6))
ONE, TWO = normal(6, 4, seed=1), normal(6, 4, seed=2)


def said(*teachers: Tensor, **options: object) -> Tensor:
    answer: Outputs = Ensemble([Told(logits) for logits in teachers], **options)(BATCH)  # type: ignore[arg-type]
    return answer.logits


def test_the_mean_of_probabilities() -> None:
    wanted = 0.75 * ONE.softmax(1) + 0.25 * TWO.softmax(1)
    assert_close(said(ONE, TWO, weights=[3, 1]).exp(), wanted)


@pytest.mark.parametrize("T", [1.0, 4.0])
def test_the_mean_of_logits_is_the_geometric_mean_of_probabilities_at_any_temperature(T: float) -> None:
    product = (ONE / T).softmax(1) ** 0.75 * (TWO / T).softmax(1) ** 0.25
    assert_close((said(ONE, TWO, combine="logit", weights=[3, 1]) / T).softmax(1), product / product.sum(1, keepdim=True))


@pytest.mark.parametrize("combine", ["probability", "logit"])
def test_copies_of_one_teacher_are_that_teacher_and_so_is_weight_one(combine: str) -> None:
    assert_close(said(ONE, ONE, ONE, combine=combine).softmax(1), ONE.softmax(1))
    assert_close(said(ONE, TWO, combine=combine, weights=[1, 0]).softmax(1), ONE.softmax(1))


def test_a_teacher_of_weight_0_is_not_asked() -> None:
    silent = torch.full_like(TWO, float("nan"))
    assert_close(said(ONE, silent, combine="logit", weights=[1, 0]), ONE)


def test_order_does_not_matter_and_classes_that_all_rule_out_stay_ruled_out() -> None:
    assert_close(said(ONE, TWO), said(TWO, ONE))
    sure = ONE.clone()
    sure[:, 0] = -torch.inf
    assert_close(said(sure, sure).exp(), sure.softmax(1))
    assert (said(sure, TWO, combine="logit").softmax(1)[:, 0] == 0).all()
    assert (said(sure, TWO).softmax(1)[:, 0] > 0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_extreme_logits_in_half_precision(dtype: torch.dtype) -> None:
    for combine in ("probability", "logit"):
        found = said((ONE.sign() * 1e4).to(dtype), (TWO.sign() * 1e4).to(dtype), combine=combine)
        assert found.dtype == torch.float32
        assert torch.isfinite(found).all()


def test_teachers_stay_frozen_and_in_evaluation_mode() -> None:
    ensemble = Ensemble([Single(nn.Sequential(nn.Linear(1, 4), nn.Dropout(0.5))) for _ in range(2)])
    ensemble.train()
    assert not any(part.requires_grad for part in ensemble.parameters())
    assert torch.equal(ensemble(BATCH).logits, ensemble(BATCH).logits)


def test_what_is_refused() -> None:
    with pytest.raises(UsageError, match="Ensemble: needs at least one teacher"):
        Ensemble([])
    with pytest.raises(UsageError, match=r"one per teacher and not all 0, got \[1.0\] for 2"):
        said(ONE, TWO, weights=[1])
    with pytest.raises(UsageError, match="not all 0"):
        said(ONE, TWO, weights=[0, 0])
    with pytest.raises(UsageError, match="combine must be one of probability, logit, got 'median'"):
        said(ONE, TWO, combine="median")
    with pytest.raises(ShapeError, match="teachers answer with"):
        said(ONE, TWO[:, :3])
    teachers = Ensemble([Single(nn.Linear(5, 3)), Single(nn.Linear(5, 3))])
    assert Distiller(nn.Linear(5, 3), teachers, OnHead()).teacher is teachers
    with pytest.raises(UsageError, match="reads the teacher's features, but Ensemble offers logits only"):
        Distiller(nn.Linear(5, 3), teachers, SimKD())
