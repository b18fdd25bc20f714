"""What each term adds to the loss, and its share of the student's gradient."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close
from training_makers import copied, half_and_half, parts, random_weights, same, train, weighting

from limbeck.core.objective import Objective
from limbeck.core.outputs import Views
from limbeck.losses.labels.ce import CE
from limbeck.losses.logits.kd import KD
from limbeck.training.shares import SAMPLES, gradient_shares
from limbeck.training.steps.offline import Offline


def lengths(objective: Objective, ran, weights: torch.Tensor) -> list[float]:
    """|grad mean_i w_i l_k,i| by term, one plain backward pass each."""
    distiller, batch = ran.training.distiller, ran.records[-1].batch
    found = []
    for place in range(len(objective.terms)):
        distiller.student.zero_grad()
        values = objective(Views(distiller.student(batch), distiller.teach(batch), batch))
        (values[place] * weights).mean().backward()
        found.append(torch.cat([part.grad.flatten() for part in distiller.student.parameters()]).norm().item())
    return found


def test_shares_are_the_lengths_of_the_weighted_gradients() -> None:
    ran = train(parts(objective=KD(T=2) * 0.2 + CE() * 3.0, weights=random_weights(), double=True))
    kd, ce = lengths(ran.training.distiller.objective, ran, ran.records[-1].weights.double())
    found = gradient_shares(ran.training, ran.records[-1])
    assert_close(found, {"KD": 0.2 * kd / (0.2 * kd + 3 * ce), "CE": 3 * ce / (0.2 * kd + 3 * ce)})


def test_a_look_leaves_no_trace() -> None:
    ran = train(parts(kind="everything"))
    distiller = ran.training.distiller
    before, random = copied(distiller.state_dict()), torch.get_rng_state()
    gradient_shares(ran.training, ran.records[-1])
    assert same(before, distiller.state_dict())
    assert torch.equal(random, torch.get_rng_state())
    assert all(part.grad is None for part in distiller.student.parameters())


def test_a_look_takes_at_most_some_samples() -> None:
    ran = train(parts())
    one, record = ran.training.distiller, ran.records[-1]
    long = replace(record, batch=record.batch.take(torch.arange(200) % 12), weights=record.weights[torch.arange(200) % 12])
    seen = []
    handle = one.student.register_forward_hook(lambda module, inputs, output: seen.append(len(output.logits)))
    gradient_shares(ran.training, long)
    handle.remove()
    assert seen == [SAMPLES]


def test_there_are_no_shares_of_nothing() -> None:
    ran = train(parts())
    record = replace(ran.records[-1], weights=torch.zeros(12))
    assert gradient_shares(ran.training, record) == {}


@pytest.mark.parametrize("weights", [None, "influence", "random"])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_what_terms_add_sums_up_to_the_loss(weights: str | None, accumulate: int) -> None:
    made = {None: None, "influence": weighting(), "random": random_weights()}[weights]
    ran = train(parts(weights=made, objective=half_and_half() * 3.0), accumulate=accumulate)
    for record in ran.records:
        assert list(record.weighted) == ["KD", "CE"]
        assert sum(record.weighted.values()) == pytest.approx(record.loss, rel=1e-5)


def test_the_offline_step_tells_it_too() -> None:
    ran = train(parts(), Offline())
    assert sum(ran.records[-1].weighted.values()) == pytest.approx(ran.records[-1].loss, rel=1e-5)
