"""Influence is measured on the net that is kept: its loss by finite differences, where a term changes that net."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters
from torch.testing import assert_close

from limbeck.core.term import Term
from limbeck.data.loader import Loader
from limbeck.data.source import InMemory
from limbeck.distiller import Distiller
from limbeck.influence.curvature.diagonal import Diagonal
from limbeck.influence.curvature.ekfac import EKFAC
from limbeck.influence.curvature.solver import Problem
from limbeck.influence.gradients import inner_products, mean_gradient, per_sample_gradients_slow
from limbeck.influence.vectors import flatten
from limbeck.losses.features.kd3 import KD3
from limbeck.losses.features.lelp import LELP
from limbeck.losses.heads.dho import DHO
from limbeck.losses.heads.serial import Serial
from limbeck.losses.heads.simkd import SimKD
from limbeck.losses.labels.ce import CE
from limbeck.teachers.single import Single
from support.makers import normal

ROWS, CLASSES, STEP = 24, 3, 1e-6


def net(width: int, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, width), nn.Tanh(), nn.Linear(width, CLASSES)).double()


def made(term: Term) -> tuple[Distiller, Loader]:
    source = InMemory(normal(ROWS, 5, seed=3), torch.arange(ROWS) % CLASSES, classes=("a", "b", "c"), truth=None, name="x")
    loader = Loader(source, torch.arange(ROWS), batch_size=8, seed=0, labels=source.labels)
    torch.manual_seed(7)
    found = Distiller(net(4, 0), Single(net(6, 1)), CE() * 0.5 + term).build(loader).double()
    with torch.no_grad():
        for part in found.objective.parameters():  # no head is left where it begins, as an identity
            if part.requires_grad:
                part += 0.1 * normal(*part.shape, seed=5)
    return found, loader


TERMS = [DHO(alpha=0.3, beta=0.7), Serial(), SimKD(), KD3(), LELP()]


@pytest.mark.parametrize("term", TERMS, ids=lambda term: type(term).__name__)
def test_the_query_loss_is_that_of_the_kept_net_by_finite_differences(term: Term) -> None:
    distiller, loader = made(term)
    train, queries = list(loader.epoch(0))[:2]
    student, task = distiller.student, distiller.task()
    start = parameters_to_vector(student.parameters()).detach()

    def kept_loss(theta: Tensor) -> Tensor:
        vector_to_parameters(theta, student.parameters())
        logits = distiller.deployed().model.eval()(queries.inputs)
        vector_to_parameters(start, student.parameters())
        assert queries.targets is not None
        return nn.functional.cross_entropy(logits, queries.targets).detach()

    v, loss = mean_gradient(student, task.query_loss, [queries])
    assert loss == pytest.approx(float(kept_loss(start)), rel=1e-12)
    rows = per_sample_gradients_slow(student, task.training_loss, train)
    slopes = [(kept_loss(start + STEP * g) - kept_loss(start - STEP * g)) / (2 * STEP) for g in rows]
    found = inner_products(student, task.training_loss, train, v, coupled=task.coupled)
    assert found.abs().max() > 1e-4
    assert_close(found, torch.stack(slopes), rtol=1e-5, atol=1e-8)
    assert_close(rows @ flatten(v), found)


@pytest.mark.parametrize("term", TERMS, ids=lambda term: type(term).__name__)
def test_the_fisher_matrix_is_that_of_the_kept_net(monkeypatch: pytest.MonkeyPatch, term: Term) -> None:
    """With the labels that were drawn known, it is made of the kept net's gradients for them, one sample at a time."""
    distiller, loader = made(term)
    student, task, batch = distiller.student, distiller.task(), next(loader.epoch(0))
    assert batch.targets is not None
    for room in ("capture", "diagonal"):
        monkeypatch.setattr(f"limbeck.influence.curvature.{room}.draw_labels", lambda *_: batch.targets)
    rows = per_sample_gradients_slow(student, task.query_loss, batch)
    assert rows.abs().max() > 1e-3
    diagonal, ekfac = Diagonal(), EKFAC()
    for solver in (diagonal, ekfac):
        solver.update(Problem(student, task, [batch], torch.Generator()))
    squares = {name: part for name, part in diagonal.state().items() if name != "/updated"}
    assert_close(flatten(squares), rows.square().mean(0))
    moments = [part.sum() for name, part in ekfac.state().items() if name.startswith("values/")]
    assert_close(torch.stack(moments).sum(), rows.square().mean(0).sum())


def test_a_term_that_keeps_the_student_leaves_its_logits_as_they_are() -> None:
    distiller, loader = made(CE())
    batch = next(loader.epoch(0))
    logits = distiller.student(batch).logits
    wanted = nn.functional.cross_entropy(logits, batch.targets, reduction="none")
    assert torch.equal(distiller.task().query_loss(distiller.student, batch), wanted)
