"""KD-AIF offline: its two trainings and the scoring between them, done by hand, end in the same bits."""

from collections.abc import Callable

import pytest
import torch
from training_makers import ROWS, Parts, copied, distance, parts, same, train, weighting

from limbeck.core.errors import UsageError
from limbeck.core.outputs import Views
from limbeck.core.term import Moment, Term
from limbeck.data.loader import Loader
from limbeck.influence.curvature.ekfac import EKFAC
from limbeck.influence.curvature.identity import Identity
from limbeck.influence.curvature.solver import Solver
from limbeck.influence.scores import score
from limbeck.influence.task import Distillation
from limbeck.losses.labels.ce import CE
from limbeck.training.fit import fit
from limbeck.training.steps.offline import Offline
from limbeck.weighting.squash import mean_one, normalise, squash
from limbeck.weighting.stored import Stored
from limbeck.weighting.uniform import Uniform


def by_hand(make: Callable[[], Parts], solver: Solver, epochs: int, first: int) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Train unweighted, score all, train anew with the weights; the global random numbers run on, as in one run."""
    torch.manual_seed(4)
    plain = make()
    torch.manual_seed(4)
    fit(plain.distiller, plain.loader, plain.optimizer, epochs=first, seed=5)
    source = plain.loader.source
    every = Loader(source, plain.loader.rows, batch_size=20, seed=0, labels=plain.loader.labels, shuffle=False, drop_last=False)
    task = Distillation(plain.distiller.objective, plain.distiller.teacher)
    found = score(plain.distiller.student, task, list(every.epoch(0)), [plain.queries], solver)
    weights = mean_one(squash(normalise(found.phi, "median"), 1.0, 4.0))
    random = torch.get_rng_state()
    again = make()
    again.distiller.weighting = Stored(found.index, weights)
    torch.set_rng_state(random)
    fit(again.distiller, again.loader, again.optimizer, epochs=epochs, seed=5)
    return again.distiller.student.state_dict(), found.phi


@pytest.mark.parametrize(("kind", "first"), [("mlp", 4), ("dropout", 1), ("batchnorm", 2)])
def test_offline_is_the_two_phases_by_hand(kind: str, first: int) -> None:
    """The solver looks at batches of another size, hence not the last bits."""
    ran = train(parts(kind=kind), Offline(Identity(), epochs=first), epochs=3)
    ended, phi = by_hand(lambda: parts(kind=kind), Identity(), 3, first)
    assert distance(ran.student, ended) < 1e-6
    found = {int(i): float(s) for record in ran.records for i, s in zip(record.batch.index, record.scores, strict=True)}
    torch.testing.assert_close(torch.tensor([found[row] for row in range(ROWS)]), phi)


def test_the_first_training_is_as_long_as_the_second_by_default() -> None:
    ended, _ = by_hand(parts, Identity(), 3, 3)
    assert distance(train(parts(), Offline(Identity()), epochs=3).student, ended) < 1e-6


def test_the_teacher_is_asked_once_about_the_samples_that_are_scored() -> None:
    made, asked = parts(), []
    assert made.distiller.teacher is not None
    made.distiller.teacher.register_forward_pre_hook(lambda _, batch: asked.append(len(batch[0])))
    train(made, Offline(EKFAC()), epochs=1)
    assert asked.count(ROWS) == 1
    assert sum(asked) <= 2 * 2 + 3 * ROWS + 16  # two looks at two samples, both trainings, the scores, and a trial's few


def test_the_first_training_tells_its_terms_and_its_schedule_the_time() -> None:
    class Told(Term):
        def at(self, moment: Moment) -> None:
            told.append((moment.step, moment.steps))

        def forward(self, views: Views) -> torch.Tensor:
            return views.student.logits.square().sum(1)

    told: list[tuple[int, int]] = []
    asked: list[tuple[int, int]] = []

    def rate(number: int, steps: int) -> float:
        asked.append((number, steps))
        return 1.0

    train(parts(objective=Told() * 0.1 + CE()), Offline(Identity(), epochs=1), epochs=2, rate=rate)
    expected = [(step, 4) for step in range(4)] + [(step, 8) for step in range(8)]
    assert told == expected
    assert list(dict.fromkeys(asked)) == expected


def test_without_gain_it_is_the_plain_training_bit_for_bit() -> None:
    """The student, its statistics and its optimiser begin anew."""
    ran = train(parts(kind="batchnorm"), Offline(EKFAC(), gain=0.0))
    assert same(ran.student, train(parts(kind="batchnorm")).student)
    assert ran.training.number == 8


def test_the_weights_are_bounded_and_of_mean_one() -> None:
    step = Offline(EKFAC())
    train(parts(), step)
    assert step.weights is not None
    table = step.weights.table
    assert len(table) == ROWS
    assert float(table.mean()) == pytest.approx(1, abs=0.01)
    assert 0 <= float(table.min()) < 0.9
    assert float(table.max()) <= 4


def test_flipped_labels_weigh_less_than_clean_ones() -> None:
    step, made = Offline(EKFAC(), epochs=6), parts(lr=0.3)
    train(made, step)
    assert step.weights is not None
    clean = made.clean[:ROWS]
    assert float(step.weights.table[~clean].mean()) < float(step.weights.table[clean].mean())


def test_the_distillers_own_weighting_is_not_used() -> None:
    assert same(
        train(parts(weights=weighting()), Offline(EKFAC())).student, train(parts(weights=Uniform()), Offline(EKFAC())).student
    )


def test_the_teacher_stays() -> None:
    made = parts()
    before = copied(made.distiller.teacher.state_dict())
    assert same(train(made, Offline(EKFAC())).teacher, before)


@pytest.mark.parametrize("queries", [None, parts().queries.take(slice(0, 0))], ids=["none", "empty"])
def test_without_queries_it_is_refused(queries: object) -> None:
    with pytest.raises(UsageError, match=r"^Offline: scores need a query set"):
        train(parts(), Offline(), queries=queries)


def test_it_starts_anew_for_each_run() -> None:
    """One step object used for two runs does not carry weights over."""
    step = Offline(EKFAC(), epochs=2)
    first = train(parts(), step)
    assert same(first.student, train(parts(), step).student)


@pytest.mark.parametrize("changes", [{"gain": -1.0}, {"clamp": 0.0}, {"epochs": 0}, {"normalise": "minmax"}])
def test_settings_out_of_range(changes: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=r"^Offline: "):
        Offline(**changes)
