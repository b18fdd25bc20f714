"""Terms with parts of their own: built for the nets, trained, kept, told the time, and shown every step once."""

from pathlib import Path
from typing import final

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close
from training_makers import BATCH, FEATURES, ROWS, Parts, copied, parts, train, weighting

from limbeck.align.taps import PENULTIMATE, Tapped, features_of
from limbeck.core.errors import UsageError
from limbeck.core.outputs import Views
from limbeck.core.term import Moment, Scene, Term
from limbeck.losses.labels.ce import CE
from limbeck.training.callback import Callback
from limbeck.training.checkpoint import Keeper
from limbeck.training.fit import fit
from limbeck.training.training import Record, Training


@final
class Hint(Term):
    """|P s - mean_t|^2 with P trained and mean_t a running mean of what was seen: all seams of a term at once."""

    builds = True
    remembers = True
    coupled = False
    student_taps = (PENULTIMATE,)

    def build(self, scene: Scene) -> None:
        width = features_of(scene.views.student, PENULTIMATE, "Hint")[0].shape[1]
        self.project = nn.Linear(width, FEATURES)
        self.register_buffer("seen", torch.zeros(FEATURES))
        self.scene, self.moments, self.batches = scene, list[Moment](), list[Tensor]()

    def at(self, moment: Moment) -> None:
        self.moments.append(moment)

    def remember(self, views: Views) -> None:
        self.batches.append(views.batch.index)
        self.seen = 0.5 * self.seen + 0.5 * views.batch.inputs.mean(0)

    def forward(self, views: Views) -> Tensor:
        (student,) = features_of(views.student, PENULTIMATE, "Hint")
        return (self.project(student) - self.seen).square().sum(1)


class Drawing(Term):
    """|s|^2 with a random factor per sample, as dropout or drawn negatives make it; keeps what it drew on a training batch."""

    needs = frozenset()

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.factors: list[Tensor] = []

    def forward(self, views: Views) -> Tensor:
        draws = torch.rand(len(views.batch))
        if len(draws) == BATCH:
            self.factors.append(draws)
        return self.scale * draws * views.student.logits.square().sum(1)


class Stop(Callback):
    """Stops a run from outside after six steps."""

    def after_step(self, training: Training, record: Record) -> None:
        if training.number == 6:
            raise KeyboardInterrupt


def hinted(**changes: object) -> tuple[Parts, Hint]:
    term = Hint()
    return parts(objective=CE() + term * 0.1, **changes), term  # type: ignore[arg-type]


def test_a_term_is_built_once_from_what_the_nets_give() -> None:
    made, term = hinted()
    made.distiller.build(made.loader)
    assert len(term.scene.rows) == ROWS
    assert term.scene.classes == 3
    assert sum(len(batch) for batch, _ in term.scene.taught()) == ROWS
    before = term.project.weight.clone()
    assert torch.equal(made.distiller.build(made.loader).objective.terms[1].project.weight, before)


def test_training_without_building_is_refused() -> None:
    made = parts()
    made.distiller.objective = CE() + Hint()  # put in place of what was built
    with pytest.raises(UsageError, match=r"Hint have parts .* call distiller\.build\(loader\)"):
        fit(made.distiller, made.loader, made.optimizer, epochs=1)


def test_an_optimiser_that_leaves_parts_out_is_refused() -> None:
    made, _ = hinted()
    made.distiller.build(made.loader)
    alone = torch.optim.SGD(made.distiller.student.parameters(), lr=0.1)
    with pytest.raises(UsageError, match=r"leaves out 2 parameters .* distiller\.trained\(\)"):
        fit(made.distiller, made.loader, alone, epochs=1)


def test_every_part_is_trained_told_the_time_and_shown_each_step_once() -> None:
    made, term = hinted()
    first = copied(term.state_dict())
    train(made, epochs=2, accumulate=3)
    per_epoch = ROWS // BATCH
    assert not torch.equal(term.project.weight, first["project.weight"])
    assert not torch.equal(term.project.bias, first["project.bias"])
    assert [moment.step for moment in term.moments] == list(range(2 * per_epoch))
    assert term.moments[-1] == Moment(2 * per_epoch - 1, 2 * per_epoch, 2 - 1 / per_epoch)
    for epoch in (0, 1):
        seen = torch.cat(term.batches[epoch * per_epoch : (epoch + 1) * per_epoch])
        assert sorted(seen.tolist()) == sorted(made.loader.rows.tolist())


def test_a_resumed_run_goes_on_with_the_terms_parts(tmp_path: Path) -> None:
    whole, once = hinted()
    train(whole, steps=8)
    first, _ = hinted()
    with pytest.raises(KeyboardInterrupt):
        train(first, steps=8, keeper=Keeper(tmp_path / "c.pt", every=5, pause_s=0.0), callbacks=[Stop()])
    second, again = hinted()
    train(second, steps=8, keeper=Keeper(tmp_path / "c.pt", every=5, pause_s=0.0), callbacks=[Callback()])
    for name, part in once.state_dict().items():
        assert torch.equal(again.state_dict()[name], part), name


def test_penultimate_is_what_goes_into_the_classifier() -> None:
    net = nn.Sequential(nn.Linear(FEATURES, 4), nn.Tanh(), nn.Linear(4, 3))
    made, _ = hinted()
    batch = next(made.loader.epoch(0))
    found = Tapped(net, (PENULTIMATE, "0"))(batch)
    assert_close(found.features[PENULTIMATE], net[:2](batch.inputs))
    assert_close(found.features["0"], net[0](batch.inputs))
    with pytest.raises(UsageError, match="no linear classifier"):
        Tapped(nn.Sequential(nn.Tanh()), (PENULTIMATE,))


@pytest.mark.parametrize("way", ["captured", "carried", "separate"])
@pytest.mark.parametrize("kind", ["mlp", "dropout"])
def test_what_a_term_draws_is_the_same_for_losses_scores_and_gradient_of_a_step(way: str, kind: str) -> None:
    term = Drawing()
    made = parts(kind=kind, objective=CE() + term, weights=weighting(way=way, refresh=1))
    train(made, epochs=1, steps=2)
    first, second = term.factors[0], term.factors[-1]
    assert not torch.equal(first, second)
    assert len(term.factors) >= 4
    assert all(torch.equal(draws, first) or torch.equal(draws, second) for draws in term.factors)
