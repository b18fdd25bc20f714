"""The controller's gradient: the sheet's number, a graph of second order, finite differences; and whole runs."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.testing import assert_close
from training_makers import Parts, distance, parts, prepared, same, train, weighting

from limbeck.core.batch import Batch
from limbeck.core.errors import UsageError
from limbeck.core.objective import Objective
from limbeck.core.outputs import Outputs, Views
from limbeck.core.term import Term
from limbeck.data.loader import Loader
from limbeck.data.source import InMemory
from limbeck.distiller import Distiller
from limbeck.influence.vectors import trainable
from limbeck.losses.labels.ce import CE
from limbeck.losses.logits.tgeokd import TGeoKD
from limbeck.teachers.single import Single
from limbeck.training.checkpoint import Keeper
from limbeck.training.steps.bilevel import Bilevel
from limbeck.training.teacher_update import lookahead
from limbeck.training.training import Training
from limbeck.training.weighted import Part, next_queries, weighted_backward
from limbeck.weighting.uniform import Uniform


class Line(nn.Module):
    """Logits (w x, -w x), w = 0.2."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(0.2, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.w * x, -self.w * x], 1)


class Told(nn.Module):
    """Logits (0.8, -0.2) for x = 1 and (0.3, 0.1) for x = -0.5: two lines through both."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([0.3 + (x + 0.5) / 3, 0.1 - 0.2 * (x + 0.5)], 1)


def test_golden_hypergradient() -> None:
    inputs = torch.tensor([[1.0], [-0.5]], dtype=torch.float64)
    source = InMemory(inputs, torch.tensor([0, 1]), classes=("a", "b"), name="Two()")
    student = Line()
    made = Distiller(student, Single(Told()), TGeoKD(T=1.5))
    loader = Loader(source, torch.arange(2), batch_size=2, seed=0, labels=source.labels, shuffle=False)
    optimizer = torch.optim.SGD(made.build(loader).trained(), lr=0.1)
    made.objective.double()
    queries = Batch(torch.tensor([[0.7]], dtype=torch.float64), torch.tensor([0]), torch.tensor([2]))
    step = Bilevel()
    training, batch = prepared(Parts(made, loader, optimizer, queries, torch.ones(2, dtype=torch.bool)), step)
    record, found = weighted_backward(training, batch)
    assert record.loss == pytest.approx(0.293249, abs=5.1e-7)
    assert student.w.grad is not None
    assert float(student.w.grad) == pytest.approx(-0.359096, abs=5.1e-7)
    (ahead,) = lookahead(training).values()
    assert float(ahead) == pytest.approx(0.235910, abs=5.1e-7)
    loss, alpha = step.backward(training, found, record.weights)
    assert loss == pytest.approx(0.541584, abs=5.1e-7)
    assert alpha == 0.5
    bias = step.term.controller[-1].bias.grad  # with a last layer of zeros, alpha = sigmoid(bias): the sheet's omega
    assert float(bias) == pytest.approx(0.007824, abs=5.1e-7)


def ready(
    objective: Term | Objective, kind: str = "mlp", weights: Any = None, **options: Any
) -> tuple[Training, Bilevel, list[Part], Tensor]:
    """A run in float64 with a stirred controller and the gradient of its first step at hand."""
    made = parts(objective=objective, kind=kind, double=True, weights=weights)
    made.distiller.objective.double()
    step = Bilevel()
    training, batch = prepared(made, step, **options)
    for part in step.term.controller.parameters():
        nn.init.normal_(part, std=0.5, generator=torch.Generator().manual_seed(2))
    torch.manual_seed(9)
    record, cut = weighted_backward(training, batch)
    return training, step, cut, record.weights


def found_by(step: Bilevel, training: Training, cut: list[Part], weights: Tensor) -> list[Tensor]:
    step.backward(training, cut, weights)
    return [part.grad for part in step.term.controller.parameters() if part.grad is not None]


OBJECTIVES = {"alone": lambda: TGeoKD(T=1.5), "with others": lambda: CE() * 0.3 + TGeoKD(T=2.0) * 0.7}


@pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)
@pytest.mark.parametrize("weights", [Uniform, weighting])
def test_it_is_the_gradient_through_the_step(objective: Any, weights: Any) -> None:
    """The slow twin: the step kept in the graph, and differentiated through."""
    training, step, cut, w = ready(objective(), weights=weights())
    distiller, student = training.distiller, training.distiller.student
    own, theta = dict(step.term.controller.named_parameters()), trainable(student)
    for part in own.values():
        part.requires_grad_()
    (one,) = cut
    views = Views(student(one.batch), one.teacher, one.batch)
    values = (distiller.objective.coefs.unsqueeze(1) * distiller.objective(views)).sum(0)
    slopes = torch.autograd.grad((w * values).mean(), [*theta.values()], create_graph=True)
    ahead = {name: part - training.learning_rate * slope for (name, part), slope in zip(theta.items(), slopes, strict=True)}
    queries = next_queries(training, len(w))
    outer = CE()(Views(functional_call(student, ahead, (queries,)), None, queries)).mean()
    wanted = torch.autograd.grad(outer, [*own.values()])
    for part in own.values():
        part.requires_grad_(False)
    found = found_by(step, training, cut, w)
    assert max(float(part.abs().max()) for part in wanted) > 1e-6
    for ours, theirs in zip(found, wanted, strict=True):
        assert_close(ours, theirs, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("kind", ["mlp", "everything"])
def test_it_is_what_finite_differences_say(kind: str) -> None:
    """With dropout and batch normalisation too: the step that is looked at drops what the student's step drops."""
    training, step, cut, w = ready(OBJECTIVES["with others"](), kind)
    found = found_by(step, training, cut, w)

    def outer() -> float:
        state = torch.get_rng_state()
        torch.manual_seed(9)
        training.optimizer.zero_grad()
        weighted_backward(training, cut[0].batch, w)
        ahead = lookahead(training)
        torch.set_rng_state(state)  # the queries' own dropout masks
        queries = next_queries(training, len(w))
        answer: Outputs = functional_call(training.distiller.student, ahead, (queries,))
        torch.set_rng_state(state)
        return float(CE()(Views(answer, None, queries)).mean())

    last = step.term.controller[-1].weight
    for place in (0, 7):
        sides = []
        for change in (1e-4, -1e-4):
            last[0, place] += change
            sides.append(outer())
            last[0, place] -= change
        assert float(found[-2][0, place]) == pytest.approx((sides[0] - sides[1]) / 2e-4, rel=1e-5, abs=1e-11)


def test_a_batch_that_is_cut_gives_the_same_gradient() -> None:
    whole, halves = ready(TGeoKD(T=2.0)), ready(TGeoKD(T=2.0), accumulate=3)
    assert len(halves[2]) == 3
    for ours, theirs in zip(found_by(halves[1], *_rest(halves)), found_by(whole[1], *_rest(whole)), strict=True):
        assert_close(ours, theirs)


def _rest(made: tuple[Training, Bilevel, list[Part], Tensor]) -> tuple[Training, list[Part], Tensor]:
    return made[0], made[2], made[3]


def term_of(ran: Any) -> TGeoKD:
    (found,) = (term for _, term in ran.training.distiller.objective.parts if isinstance(term, TGeoKD))
    return found


@pytest.mark.parametrize("weights", [Uniform, weighting])
def test_the_controller_learns(weights: Any) -> None:
    """What the released code does not do."""
    ran = train(parts(objective=TGeoKD(), weights=weights()), Bilevel(lr=0.01))
    assert float(term_of(ran).controller[-1].weight.abs().max()) > 0
    alphas = [record.figures["alpha"] for record in ran.records]
    assert alphas[0] == 0.5
    assert alphas[-1] != 0.5
    assert all(part.grad is None for part in ran.training.distiller.parameters())


def test_nobody_is_asked_twice() -> None:
    """The teacher answers once; the student twice where it stands, once at the lookahead, and once with a tangent."""
    made, step, asked = parts(objective=TGeoKD()), Bilevel(), []
    training, batch = prepared(made, step)
    made.distiller.student.register_forward_pre_hook(lambda *_: asked.append("student"))
    made.distiller.teacher.register_forward_pre_hook(lambda *_: asked.append("teacher"))
    step(training, batch)
    assert sorted(asked) == ["student"] * 4 + ["teacher"]


def test_with_another_step_the_ratio_stays_one_half() -> None:
    ran = train(parts(objective=TGeoKD(), weights=weighting()))
    assert not term_of(ran).controller[-1].weight.any()


@pytest.mark.parametrize("kind", ["mlp", "everything"])
def test_a_controller_that_is_never_updated_leaves_the_plain_run(kind: str) -> None:
    """Running statistics, random numbers and influence weights and all; up to roundings, as weights may be made another way."""
    plain = train(parts(objective=TGeoKD(), kind=kind, weights=weighting(refresh=1)))
    held = train(parts(objective=TGeoKD(), kind=kind, weights=weighting(refresh=1)), Bilevel(lr=1e-30, weight_decay=0.0))
    assert distance(held.student, plain.student) < 1e-6


def test_every_so_many_steps() -> None:
    ran = train(parts(objective=TGeoKD()), Bilevel(every=3))
    assert ["alpha" in record.figures for record in ran.records[:6]] == [True, False, False, True, False, False]


def test_a_run_goes_on_exactly(tmp_path: Path) -> None:
    whole = train(parts(objective=TGeoKD()), Bilevel(lr=0.05))
    file = tmp_path / "checkpoint"
    train(parts(objective=TGeoKD()), Bilevel(lr=0.05), steps=5, epochs=1, keeper=Keeper(file, every=5, pause_s=0))
    second = train(parts(objective=TGeoKD()), Bilevel(lr=0.05), keeper=Keeper(file, every=100, pause_s=0))
    assert len(second.records) == len(whole.records) - 5
    assert same(second.student, whole.student)
    assert same(term_of(second).state_dict(), term_of(whole).state_dict())


def test_it_needs_one_tgeokd_and_queries() -> None:
    with pytest.raises(UsageError, match="controller of one TGeoKD"):
        train(parts(objective=CE()), Bilevel())
    with pytest.raises(UsageError, match="needs a query set"):
        train(parts(objective=TGeoKD()), Bilevel(), queries=None)
    with pytest.raises(UsageError, match="Bilevel: every"):
        Bilevel(every=0)
