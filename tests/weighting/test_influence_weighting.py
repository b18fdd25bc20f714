"""InfluenceWeighting in a miniature run: when q is renewed, what a checkpoint holds, what guard and lookahead do."""

import copy
import warnings
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from limbeck.core.batch import Batch
from limbeck.core.errors import DataError, RunError, UsageError
from limbeck.evaluation.flips import flip_auc
from limbeck.influence.curvature.conjugate_gradient import ConjugateGradient
from limbeck.influence.curvature.diagonal import Diagonal
from limbeck.influence.curvature.ekfac import EKFAC
from limbeck.influence.curvature.exact import Exact
from limbeck.influence.curvature.identity import Identity
from limbeck.influence.curvature.solver import Problem, Solver
from limbeck.influence.gradients import mean_gradient, per_sample_gradients_slow
from limbeck.influence.vectors import Vector, flatten, trainable
from limbeck.weighting.influence import InfluenceWeighting
from limbeck.weighting.squash import mean_one, normalise, squash
from support.makers import normal
from support.stub_run import TASK, StubRun

SOLVERS: list[Callable[[], Solver]] = [Identity, Diagonal, EKFAC, Exact, lambda: ConjugateGradient(steps=5)]


class Watched(Solver):
    """The gradient itself, and a note of every call."""

    def __init__(self, every: int = 10**9) -> None:
        self.every = every
        self.updated: list[int | None] = []
        self.solved: list[Vector] = []
        self.samples: list[list[int]] = []

    def wants(self, step: int, most: int) -> int:
        return most if step % self.every == 0 else 0

    def update(self, problem: Problem, step: int | None = None) -> None:
        self.updated.append(step)
        self.samples.append(problem.batches[0].index.tolist())

    def solve(self, v: Vector, problem: Problem) -> Vector:
        self.solved.append(v)
        return v


def test_weights_are_the_formula_on_explicit_gradients() -> None:
    run = StubRun()
    weighting = run.bind(InfluenceWeighting(Identity(), "std", gain=1.5, refresh=1))
    step = run.step()
    weights = weighting(step)
    v = flatten(mean_gradient(run.model, TASK.query_loss, [run.queries])[0])
    phi = -per_sample_gradients_slow(run.model, TASK.training_loss, step.batch) @ v
    assert_close(weighting.last_scores(), phi)
    assert_close(weights, mean_one(squash(normalise(phi, "std"), 1.5)))
    figures = weighting.figures()
    assert figures["scale"] == pytest.approx(float(phi.std(correction=0)))
    assert figures["query_loss"] == pytest.approx(float(TASK.query_loss(run.model, run.queries).mean().detach()))
    assert 0 <= figures["saturated"] <= 1


@pytest.mark.parametrize("make", SOLVERS, ids=lambda make: repr(make()))
def test_harmful_labels_weigh_less_with_every_solver(make: Callable[[], Solver]) -> None:
    run = StubRun()
    optimizer = torch.optim.SGD(run.model.parameters(), lr=0.5)
    for _ in range(30):
        optimizer.zero_grad()
        TASK.training_loss(run.model, run.train).mean().backward()
        optimizer.step()
    weights = run.bind(InfluenceWeighting(make()))(run.step(rows=slice(0, 64)))
    assert weights[:20].mean() < 1 < weights[20:].mean()
    auc = flip_auc(-weights, torch.arange(64) < 20)
    assert auc is not None
    assert auc > 0.75


@pytest.mark.parametrize("every", [6, 2])
def test_q_is_renewed_every_refresh_steps_and_curvature_at_its_own_pace(every: int) -> None:
    run, solver = StubRun(), Watched(every)
    weighting = run.bind(InfluenceWeighting(solver, refresh=3))
    renewed = []
    for number in range(12):
        before = len(solver.solved)
        weighting(run.step(number))
        renewed += [number] * (len(solver.solved) - before)
        run.move(seed=number)
    assert renewed == [0, 3, 6, 9]
    assert solver.updated == list(range(0, 12, every))
    assert not torch.equal(flatten(solver.solved[0]), flatten(solver.solved[1]))


def test_no_more_training_samples_are_read_than_the_solver_looks_at() -> None:
    run, read = StubRun(), []

    def draw(count: int, rng: torch.Generator) -> Batch:
        read.append(count)
        return run.draw(count, rng)

    weighting = run.bind(InfluenceWeighting(EKFAC(statistics=4, samples=5), refresh=2, samples=20), draw=draw)
    list(run.weights(weighting, range(9)))
    assert read == [20, 5, 5]


def test_the_q_of_a_lookahead_is_renewed_as_often_as_that_of_the_student() -> None:
    """Where the step has the query gradient already, it is not taken again."""
    run, solver = StubRun(), Watched()
    weighting = run.bind(InfluenceWeighting(solver, refresh=3))
    own = {name: part.detach() for name, part in trainable(run.model).items()}
    known = {name: torch.ones_like(part) for name, part in own.items()}
    for number in range(7):
        weighting(replace(run.step(number, at=own), queried=(known, 0.5) if number >= 3 else None))
    assert len(solver.solved) == 3
    assert [torch.equal(flatten(v), flatten(known)) for v in solver.solved] == [False, True, True]


def test_scores_are_fresh_at_every_step_though_q_is_old() -> None:
    run, solver = StubRun(), Watched()
    weighting = run.bind(InfluenceWeighting(solver, refresh=50))
    weighting(run.step(0))
    run.move()
    step = run.step(1)
    weighting(step)
    assert_close(weighting.last_scores(), -step.dot(solver.solved[0]))


def test_curvature_samples_depend_on_seed_and_step_alone() -> None:
    drawn = []
    for seed in (0, 0, 1):
        run, solver = StubRun(), Watched(every=1)
        torch.rand(3)
        weighting = run.bind(InfluenceWeighting(solver, refresh=1, samples=10), seed=seed)
        for number in range(3):
            weighting(run.step(number))
        drawn.append(solver.samples)
    assert drawn[0] == drawn[1]
    assert drawn[0] != drawn[2]
    assert len({tuple(sorted(rows)) for rows in drawn[0]}) == 3
    assert all(len(rows) == 10 for rows in drawn[0])


def test_query_batch_draws_afresh_at_each_renewal() -> None:
    run, solver = StubRun(), Watched()
    weighting = run.bind(InfluenceWeighting(solver, refresh=1, query_batch=7))
    for number in range(2):
        weighting(run.step(number))
    whole = flatten(mean_gradient(run.model, TASK.query_loss, [run.queries])[0])
    one, two = (flatten(v) for v in solver.solved)
    assert not torch.allclose(one, two)
    assert not torch.allclose(one, whole)
    run.bind(InfluenceWeighting(again := Watched(), query_batch=7))(run.step(1))
    assert_close(flatten(again.solved[0]), two)
    run.bind(InfluenceWeighting(large := Watched(), query_batch=30))(run.step(0))
    assert_close(flatten(large.solved[0]), whole)


@pytest.mark.parametrize(
    ("count", "settings", "parts"),
    [
        (200, {"refresh": 20}, 3),
        (400, {"refresh": 20}, 4),
        (400, {"refresh": 40}, 2),
        (400, {"refresh": 81}, 1),
        (100, {"refresh": 20}, 1),
        (400, {"refresh": 1}, 1),
        (400, {"refresh": "epochs:2"}, 1),
        (400, {"refresh": 20, "query_batch": 64}, 1),
        (400, {"refresh": 20, "turns": 1}, 1),
        (400, {"refresh": 1, "turns": 5}, 5),
        (3, {"refresh": 20, "turns": 5}, 3),
    ],
)
def test_a_renewal_reads_a_part_of_the_query_set_unless_that_would_be_too_old(count: int, settings: dict, parts: int) -> None:
    weighting, read = InfluenceWeighting(Identity(), **settings), []
    run = StubRun(asked=count)
    run.bind(weighting)
    assert weighting._turned.parts == parts
    if isinstance(weighting.refresh, str):
        return
    gradients = weighting._turned

    def counted(queries: Batch, of: Callable[[Batch], tuple[Vector, float]]) -> tuple[Vector, float]:
        return gradients(queries, lambda few: (read.append(len(few)), of(few))[1])

    weighting._turned = counted  # type: ignore[assignment]
    for number in range(0, 3 * weighting.pace.steps, weighting.pace.steps):
        weighting(run.step(number))
    queried = min(count, weighting.query_batch or count)
    assert len(read) == (parts + 2 if parts > 1 else 3)
    assert sum(read[:parts]) == queried


def test_parts_in_turn_give_the_direction_of_the_whole_set_while_the_student_stands_still() -> None:
    run = StubRun(asked=200)
    turned, whole = (run.bind(InfluenceWeighting(Identity(), refresh=2, turns=turns)) for turns in (3, 1))
    for number in range(0, 8, 2):
        found, wanted = turned.direction(number), whole.direction(number)
        assert found is not None
        assert wanted is not None
        assert_close(flatten(found), flatten(wanted))


@pytest.mark.parametrize("make", SOLVERS, ids=lambda make: repr(make()))
@pytest.mark.parametrize(
    ("cut", "queries"), [(1, {"query_batch": 11}), (4, {"query_batch": 11}), (1, {"turns": 3}), (9, {"turns": 3})]
)
def test_state_makes_the_next_weights_the_same_to_the_bit(make: Callable[[], Solver], cut: int, queries: dict[str, int]) -> None:
    """The twin starts from the checkpoint in a process of its own: other random numbers, a new weighting."""
    run, twin = StubRun(dropout=0.3), StubRun(dropout=0.3)
    torch.manual_seed(1)
    weighting = run.bind(InfluenceWeighting(make(), refresh=4, samples=20, **queries))
    list(run.weights(weighting, range(cut)))
    state, rng = copy.deepcopy(weighting.state()), torch.get_rng_state()
    twin.model.load_state_dict(copy.deepcopy(run.model.state_dict()))
    wanted = [(weights, weighting.figures()) for weights in run.weights(weighting, range(cut, cut + 9))]
    torch.manual_seed(7)
    other = twin.bind(InfluenceWeighting(make(), refresh=4, samples=20, **queries))
    other.load_state(state)
    torch.set_rng_state(rng)
    found = [(weights, other.figures()) for weights in twin.weights(other, range(cut, cut + 9))]
    assert all(torch.equal(ours, theirs) for (ours, _), (theirs, _) in zip(found, wanted, strict=True))
    assert [figures for _, figures in found] == [figures for _, figures in wanted]
    assert all(torch.equal(part, other.state()[name]) for name, part in weighting.state().items())
    assert len(weighting.state()["shares"]) == cut + 9  # one a step, for the guard's next look


def test_the_students_random_numbers_are_left_alone() -> None:
    """Else a run with weights of 1 would not be the plain run to the bit, as soon as the student has dropout."""
    for make in SOLVERS:
        run = StubRun(dropout=0.5)
        weighting, rng = run.bind(InfluenceWeighting(make(), refresh=1)), torch.get_rng_state()
        weighting(run.step())
        weighting(run.step(1, at={name: part * 0.9 for name, part in trainable(run.model).items()}))
        assert torch.equal(torch.get_rng_state(), rng)


@pytest.mark.parametrize("gain", [0.0, 1.0])
def test_gain_nought_weighs_exactly_one(gain: float) -> None:
    run = StubRun()
    weights = run.bind(InfluenceWeighting(gain=gain))(run.step())
    assert torch.equal(weights, torch.ones(32, dtype=torch.float64)) == (gain == 0)


def test_equal_scores_weigh_exactly_one() -> None:
    run = StubRun()
    step = run.step(rows=torch.full((16,), 5))
    weights = run.bind(InfluenceWeighting(Identity(), gain=4, refresh=1))(step)
    assert torch.equal(weights, torch.ones(16, dtype=torch.float64))


def test_a_lookahead_leaves_state_scores_and_figures() -> None:
    run = StubRun()
    weighting = run.bind(InfluenceWeighting(EKFAC()))
    weighting(run.step(0))
    before = copy.deepcopy((weighting.state(), weighting.last_scores(), weighting.figures()))
    ahead = {name: part.detach() + 0.3 * normal(*part.shape) for name, part in trainable(run.model).items()}
    seen = weighting(run.step(0, at=ahead))
    state, scores, figures = before
    own = {name: part for name, part in weighting.state().items() if not name.startswith("ahead/")}
    assert own.keys() == state.keys()
    assert all(torch.equal(part, state[name]) for name, part in own.items())
    assert torch.equal(weighting.last_scores() if scores is None else scores, weighting.last_scores())  # type: ignore[arg-type]
    assert weighting.figures() == figures
    assert not torch.allclose(seen, weighting(run.step(0)))
    run.model.load_state_dict(ahead)
    again = run.bind(InfluenceWeighting(EKFAC()))
    again.solver.load_state(weighting.solver.state())
    assert_close(again(run.step(0)), seen)


def test_when_the_guard_trips_weights_are_one_from_there_on() -> None:
    run = StubRun()
    weighting = run.bind(InfluenceWeighting(Identity(), refresh=20))
    looks: list[int] = []
    for number in range(0, 200, 20):
        weights = weighting(run.step(number))
        looks.append(number)
        if weighting.guard.tripped:
            break
        assert weighting.events() == []
        run.move(size=4.0, seed=number)  # every class certain and wrong
    assert 60 <= looks[-1] <= 120
    (said,) = weighting.events()
    assert said.startswith(f"at step {looks[-1]}: influence weighting was stopped, all weights are 1 from here on")
    one = torch.ones(32, dtype=torch.float64)
    assert torch.equal(weights, one)
    assert weighting.last_scores() is None
    assert weighting.events() == []
    assert torch.equal(weighting(run.step(looks[-1] + 1)), one)
    ahead = {name: part.detach() * 0.5 for name, part in trainable(run.model).items()}
    assert torch.equal(weighting(run.step(looks[-1] + 1, at=ahead)), one)
    other = run.bind(InfluenceWeighting(Identity(), refresh=20))
    other.load_state(weighting.state())
    assert torch.equal(other(run.step(looks[-1] + 2)), one)
    assert other.figures() == weighting.figures()


def test_steep_weights_along_an_old_direction_are_warned_of() -> None:
    run = StubRun()
    weighting = InfluenceWeighting(gain=4, refresh=10)
    with pytest.warns(UserWarning, match="gain 4 with a q that is up to 10 steps old can destroy training"):
        run.bind(weighting)
    assert len(weighting.events()) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for fine in (InfluenceWeighting(gain=1), InfluenceWeighting(gain=4, refresh=1)):
            assert run.bind(fine).events() == []


def test_two_processes_weigh_as_one() -> None:
    run = StubRun()
    whole = run.bind(InfluenceWeighting(Identity()))(run.step())
    everyone = run.bind(again := InfluenceWeighting(Identity())) and again(run.step())
    scores = again.last_scores()
    assert torch.equal(everyone, whole)
    assert scores is not None
    for start in (0, 16):

        def gather(values: Tensor) -> Tensor:
            return scores if len(values) == 16 else values

        part = run.bind(InfluenceWeighting(Identity()), gather=gather, offset=lambda _, start=start: start)
        assert_close(part(run.step(rows=slice(start, start + 16))), whole[start : start + 16])


def test_scores_that_are_no_numbers_stop_the_run() -> None:
    run = StubRun()
    weighting = run.bind(InfluenceWeighting(Identity()))
    step = run.step()
    broken = type(step)(step.number, step.batch, step.look, lambda q: step.dot(q) * float("nan"))
    with pytest.raises(RunError, match="scores are NaN or infinite at step 0"):
        weighting(broken)


def test_mistakes_are_one_sentence() -> None:
    run = StubRun()
    for queries in (None, run.queries.take(slice(0, 0))):
        with pytest.raises(DataError, match="the query set is empty"):
            run.bind(InfluenceWeighting(), queries=queries)
    for wrong in ({"gain": -1}, {"clamp": 0}, {"refresh": 0}, {"samples": 0}, {"query_batch": 0}, {"normalise": "min"}):
        with pytest.raises(UsageError, match="InfluenceWeighting: "):
            InfluenceWeighting(**wrong)  # type: ignore[arg-type]
