"""Uniform weights are the unweighted run bit for bit; weight 0 is the sample's absence; a hand-written loop ends alike."""

import pytest
import torch
import torch.nn.functional as F
from training_makers import BATCH, ROWS, Parts, distance, half_and_half, net, parts, prepared, same, train, weighting

from limbeck.core.outputs import Views
from limbeck.influence.curvature.ekfac import EKFAC
from limbeck.training.steps.student import Student
from limbeck.training.weighted import weighted_backward
from limbeck.weighting.influence import InfluenceWeighting
from limbeck.weighting.stored import Stored
from limbeck.weighting.uniform import Uniform

KINDS = ["mlp", "dropout", "batchnorm", "layernorm"]


def by_hand(made: Parts, epochs: int) -> None:
    """The loop as one would write it without the package: no weights, no seams."""
    torch.manual_seed(4)
    student, teacher = made.distiller.student.model, made.distiller.teacher.tapped.model
    for epoch in range(epochs):
        for batch in made.loader.epoch(epoch):
            student.train()
            with torch.no_grad():
                t = teacher(batch.inputs)
            s = student(batch.inputs)
            log_p, log_q = F.log_softmax(t / 2.0, -1), F.log_softmax(s / 2.0, -1)
            kd = 4.0 * (log_p.exp() * (log_p - log_q)).sum(-1)
            loss = 0.5 * kd.mean() + 0.5 * F.cross_entropy(s, batch.targets, reduction="none").mean()
            loss.backward()
            made.optimizer.step()
            made.optimizer.zero_grad()


@pytest.mark.parametrize("kind", KINDS)
def test_uniform_weights_are_a_hand_written_loop_bit_for_bit(kind: str) -> None:
    ours, twin = parts(kind=kind, weights=Uniform()), parts(kind=kind)
    train(ours, epochs=3)
    by_hand(twin, epochs=3)
    assert same(ours.distiller.student.state_dict(), twin.distiller.student.state_dict())


def test_the_twin_learns() -> None:
    made = parts()
    before = net().state_dict()
    by_hand(made, epochs=3)
    assert distance(made.distiller.student.model.state_dict(), before) > 0.05


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("normalise", ["zscore", "std", "median"])
def test_influence_without_gain_is_plain_distillation_bit_for_bit(kind: str, normalise: str) -> None:
    plain = train(parts(kind=kind, weights=Uniform()))
    still = train(parts(kind=kind, weights=weighting(gain=0.0, normalise=normalise)))
    assert same(plain.student, still.student)
    assert all(torch.equal(record.weights, torch.ones(BATCH)) for record in still.records)


def test_influence_without_gain_is_plain_distillation_with_ekfac_too() -> None:
    for kind in ("dropout", "batchnorm"):
        plain = train(parts(kind=kind, weights=Uniform()))
        still = train(parts(kind=kind, weights=InfluenceWeighting(EKFAC(statistics=2, basis=4), gain=0.0, refresh=2, samples=24)))
        assert same(plain.student, still.student)


def test_equal_scores_are_weight_one() -> None:
    """With a query gradient of 0 every phi is 0: M1 is M0 bit for bit."""
    made = parts(weights=weighting())
    made.queries = made.queries.take(torch.zeros(0, dtype=torch.int64))
    made = parts(weights=weighting(), objective=half_and_half())
    q = {name: torch.zeros_like(part) for name, part in made.distiller.student.named_parameters()}
    made.distiller.weighting.solver.solve = lambda v, problem: q  # type: ignore[method-assign]
    assert same(train(made).student, train(parts(weights=Uniform())).student)


def test_influence_with_gain_is_not_plain_distillation() -> None:
    assert distance(train(parts(weights=Uniform())).student, train(parts(weights=weighting())).student) > 1e-4


@pytest.mark.parametrize("kind", ["mlp", "layernorm"])
def test_weight_zero_is_the_sample_removed_from_the_sum(kind: str) -> None:
    """The denominator stays B: (1/B) sum over the others."""
    table = torch.ones(ROWS, dtype=torch.float64)
    table[torch.arange(0, ROWS, 5)] = 0.0
    made = parts(kind=kind, weights=Stored(torch.arange(ROWS), table), double=True)
    training, batch = prepared(made, Student())
    weighted_backward(training, batch)
    ours = [part.grad.clone() for part in made.distiller.student.parameters()]
    kept = batch.take((batch.index % 5 != 0).nonzero()[:, 0])
    assert 0 < len(kept) < len(batch)
    made.optimizer.zero_grad()
    values = half_and_half().per_sample(Views(made.distiller.student(kept), made.distiller.teach(kept), kept))
    (values.sum() / len(batch)).backward()
    for own, part in zip(ours, made.distiller.student.parameters(), strict=True):
        torch.testing.assert_close(own, part.grad, rtol=1e-12, atol=1e-15)


def test_a_whole_run_with_weight_zero_never_sees_the_labels_of_those_samples() -> None:
    table = torch.ones(ROWS)
    table[::5] = 0.0
    ended = []
    for shift in (0, 1):
        made = parts(weights=Stored(torch.arange(ROWS), table))
        made.loader.labels = torch.where(torch.arange(len(made.loader.labels)) % 5 == 0, shift, made.loader.labels)
        ended.append(train(made).student)
    assert same(*ended)


def test_stored_weights_of_one_are_uniform_bit_for_bit() -> None:
    assert same(
        train(parts(weights=Stored(torch.arange(ROWS), torch.ones(ROWS)))).student, train(parts(weights=Uniform())).student
    )
