"""Influence on the margin: the log odds against the right class."""

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from limbeck.align.taps import Tapped
from limbeck.core.batch import Batch
from limbeck.core.errors import UsageError
from limbeck.core.objective import as_objective
from limbeck.core.outputs import Outputs
from limbeck.influence.curvature.identity import Identity
from limbeck.influence.gradients import per_sample_gradients_slow
from limbeck.influence.scores import score
from limbeck.influence.task import Distillation, margin_of
from limbeck.losses.labels.ce import CE
from support.makers import labels, normal


def test_golden_numbers() -> None:
    # two classes: the other logit less the right one; three with 1, 0, 0 and label 0: log(e^0 + e^0) - 1 = log 2 - 1
    batch = Batch(torch.zeros(2, 1), torch.tensor([0, 1]), torch.arange(2))
    assert margin_of(torch.tensor([[2.0, -1.0], [0.5, 3.0]]), batch).tolist() == [-3.0, -2.5]
    three = Batch(torch.zeros(1, 1), torch.tensor([0]), torch.arange(1))
    assert_close(margin_of(torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64), three), torch.tensor([2.0]).double().log() - 1)


def test_it_is_the_log_odds_and_keeps_its_slope_where_the_model_is_sure() -> None:
    logits, given = normal(6, 4), labels(6, classes=4)
    batch = Batch(torch.zeros(6, 1), given, torch.arange(6))
    right = logits.softmax(1).gather(1, given.unsqueeze(1)).squeeze(1)
    assert_close(margin_of(logits, batch), ((1 - right) / right).log())
    sure = torch.tensor([[60.0, -60.0]], requires_grad=True)
    (slope,) = torch.autograd.grad(margin_of(sure, batch.take(torch.tensor([0]))).sum().abs(), sure)
    assert_close(slope.abs(), torch.ones(1, 2))


def test_tokens_without_a_label_do_not_count() -> None:
    logits, targets = normal(2, 3, 5), torch.tensor([[1, -1, 2], [0, 4, -1]])
    found = margin_of(logits, Batch(torch.zeros(2, 3), targets, torch.arange(2)))
    flat = Batch(torch.zeros(4, 1), targets[targets >= 0], torch.arange(4))
    each = margin_of(logits[targets >= 0], flat)
    assert_close(found, each.view(2, 2).mean(1))
    with pytest.raises(UsageError, match="the margin needs labels"):
        margin_of(logits, Batch(torch.zeros(2, 3), None, torch.arange(2)))


def test_scores_are_inner_products_with_its_mean_gradient() -> None:
    model = Tapped(nn.Linear(4, 3)).double()
    train, queries = (Batch(normal(n, 4, seed=n), labels(n, classes=3, seed=n), torch.arange(n)) for n in (7, 5))
    task = Distillation(as_objective(CE()), None, query="margin")
    rows = per_sample_gradients_slow(model, task.training_loss, train)

    def margins(student: object, batch: Batch) -> Tensor:
        return margin_of(model(batch).logits, batch)

    v = per_sample_gradients_slow(model, margins, queries).mean(0)
    assert_close(score(model, task, [train], [queries], Identity()).phi, -rows @ v)


def test_it_does_not_turn_where_a_model_is_too_sure() -> None:
    """Larger logits raise the cross-entropy of queries of which a third is answered wrongly; the margin still falls."""
    given = torch.tensor([0, 0, 1])
    batch = Batch(torch.zeros(3, 1), given, torch.arange(3))
    task = {kind: Distillation(as_objective(CE()), None, query=kind) for kind in ("ce", "margin")}

    def mean(kind: str, scale: float) -> float:
        logits = scale * torch.tensor([[4.0, 0.0], [4.0, 0.0], [4.0, 0.0]])
        return float(task[kind].query_loss(lambda _: Outputs(logits), batch).mean())

    assert mean("ce", 1.1) > mean("ce", 1.0)
    assert mean("margin", 1.1) < mean("margin", 1.0)
