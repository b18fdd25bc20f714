"""KD-AIF's weights: bounded, decreasing functions of each sample's influence on the query loss, while the student trains.

Over 300 lines: what is kept between steps, and how it goes into a checkpoint, must change together.
"""

import warnings
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import final

import torch
from torch import Tensor

from limbeck.core.batch import Batch
from limbeck.core.checks import not_negative, positive, whole
from limbeck.core.errors import DataError, RunError, UsageError
from limbeck.core.shown import shown
from limbeck.influence.curvature.ekfac import EKFAC
from limbeck.influence.curvature.solver import Later, Problem, Solver
from limbeck.influence.gradients import mean_gradient
from limbeck.influence.in_turn import InTurn, parts_of
from limbeck.influence.pieces import Pieces
from limbeck.influence.restoring import evaluating, random_state
from limbeck.influence.scores import score
from limbeck.influence.vectors import Vector
from limbeck.influence.ways import check_way
from limbeck.weighting.guard import Guard
from limbeck.weighting.rescored import AUTO, Pace, Table, pace_of
from limbeck.weighting.squash import Normalise, check_normalise, effective_sample_size, mean_one, normalise, saturated, squash
from limbeck.weighting.weighting import Setting, Step, Weighting


@final
class InfluenceWeighting(Weighting):
    """w_i = 2 / (1 + exp(gain z_i)), z the normalised phi_i = -<q, g_i>, q = H^-1 (mean query gradient); mean scaled towards 1.

    Given q, phi is exact. Weights of a step: q is renewed every `refresh` steps; query gradient and training gradients are taken
    in the student's training mode on both sides (batch normalisation by the statistics of the batch at hand, running statistics
    untouched; dropout draws the mask that the training step draws). See docs/decisions/0002. Stored weights: evaluation mode on
    both sides, z by a running mean of all samples' scores (docs/decisions/0017).

    Args:
        solver: The inverse; EKFAC() where none is named.
        normalise: How scores are brought to a common scale; see `limbeck.weighting.squash.normalise`. "auto" is "median" for
            stored weights, and "zscore" for those of a step, since steep ones do not go with a q that has aged.
        gain: Steepness, >= 0. Above 1 with a q that is older than one step, weights can destroy training: a warning says so.
        clamp: Bound of |gain z|, > 0.
        refresh: Steps between two renewals of q, >= 1; or "epochs:5": all training samples are scored in evaluation mode after
            the first epoch and then every 5 epochs, and the weights stored, so that a step costs what a plain one costs. "auto"
            is 20 in a run of less than ten epochs, else "epochs:2", or a fifteenth of a run of 45 epochs and more; and 20 where
            terms are for what a step has written.
        start: Epochs before the weights begin, >= 0; stored ones begin after the first at the earliest.
        samples: Training samples that curvature is estimated from, >= 1; EKFAC() reads fewer after the first time.
        way: How a step gets its inner products: "captured", "carried", "separate", "reverse", or "auto" for the cheapest exact
            one, which the first weighted step of more than one sample finds out by trial (see `limbeck.influence.ways`).
        query_batch: Query samples drawn afresh for each renewal of q, >= 1; None for the whole query set.
        turns: Parts of the query set, >= 1: a renewal of q takes the gradient of one anew and the others' as it was at their last
            turn (see `limbeck.influence.in_turn`); rounds of stored weights take all. "auto" makes up to 4 parts of at least 64
            samples, none older than 80 steps; and one with `query_batch`, with a gain above 1, and where q is renewed at every
            step.

    Reference: Wu, Luo, Liu, Deng, KD-AIF, arXiv:2501.02705. Differs from the paper: the normalisation, which the available
    sources leave open, the clamp, and the bounded scaling of the mean.

    >>> InfluenceWeighting(refresh=10)
    InfluenceWeighting(EKFAC(damping=0.1), normalise='auto', gain=1, refresh=10)
    """

    needs_queries = True
    MEAN_LIMIT = 2.0
    TURNS, OLDEST = 4, 80
    """Most parts of the query set that have their turn, and steps that the gradient of one may be old (decision 0021)."""
    LOOK_EVERY = 20
    """Least steps between two looks of the guard, so that its patience means the same at every refresh."""

    def __init__(
        self,
        solver: Solver | None = None,
        normalise: str = AUTO,
        *,
        gain: float = 1.0,
        clamp: float = 4.0,
        refresh: int | str = AUTO,
        start: int = 0,
        samples: int = 512,
        query_batch: int | None = None,
        turns: int | str = AUTO,
        way: str = "auto",
    ) -> None:
        self.solver = EKFAC() if solver is None else solver
        self.normalise = normalise if normalise == AUTO else check_normalise(normalise, "InfluenceWeighting", AUTO)
        self.gain = not_negative(gain, "InfluenceWeighting: gain")
        self.clamp = positive(clamp, "InfluenceWeighting: clamp")
        self.refresh = refresh
        self.pace = pace_of(refresh, "InfluenceWeighting: refresh")
        self.start = whole(start, "InfluenceWeighting: start", least=0)
        self.samples = whole(samples, "InfluenceWeighting: samples")
        self.query_batch = None if query_batch is None else whole(query_batch, "InfluenceWeighting: query_batch")
        if isinstance(turns, str) and turns != AUTO:
            raise UsageError(f'InfluenceWeighting: turns must be a whole number of parts or "auto", got {turns!r}.')
        self.turns = turns if isinstance(turns, str) else whole(turns, "InfluenceWeighting: turns")
        if self.turns not in (AUTO, 1) and query_batch is not None:
            raise UsageError(
                "InfluenceWeighting: query_batch draws queries afresh and turns keeps those of before; give one of them."
            )
        self.way = check_way(way, "InfluenceWeighting")
        self._q: Vector | None = None
        self._renewed = 0
        self._q_ahead: Vector | None = None
        self._renewed_ahead = 0
        self._turned, self._turned_ahead = InTurn(1), InTurn(1)
        self._looked: int | None = None
        self._scores: Tensor | None = None
        self._figures: dict[str, float] = {}
        self._events: list[str] = []
        self._shares: list[float] = []
        self._table = Table(self.pace.epochs or 1, self.start)

    def bind(self, setting: Setting) -> None:
        """Take note of the run, and forget an earlier one.

        Raises:
            DataError: The query set is missing or empty.
            UsageError: All samples are to be scored, and the loss is for what a step has written.
        """
        super().bind(setting)
        if setting.queries is None or not len(setting.queries):
            raise DataError("InfluenceWeighting: the query set is empty; set query to at least 1 (200 or more is good).")
        self.guard = Guard(setting.classes)
        self._cut, self._cut_still = (Pieces(setting.student, setting.task.query_loss) for _ in range(2))
        self._q, self._renewed, self._looked, self._scores = None, 0, None, None
        self._q_ahead, self._renewed_ahead = None, 0
        epochs = setting.steps / setting.per_epoch
        self.pace = self._pace(epochs, setting.written)
        if self.pace.epochs is not None and setting.written:
            raise UsageError(
                f"InfluenceWeighting: refresh={self.refresh!r} scores the data's own samples, but terms are for what a "
                'step has written; take a number of steps, such as refresh=20, or "auto".'
            )
        self._turned, self._turned_ahead = (InTurn(self._parts(len(setting.queries))) for _ in range(2))
        self._figures, self._shares, self._table = {}, [], Table(self.pace.epochs or 1, self.start)
        self.solver.load_state({})  # nothing of an earlier run: it counts the steps from 0 too
        missed = self._begin(self.pace) >= epochs
        self._events = [f"InfluenceWeighting: weights are {self.schedule(epochs)}."] if missed else []
        age = self.pace.steps * self._turned.parts
        if self.gain > 1 and self.pace.epochs is None and age > 1:
            aged = f"gain {self.gain:g} with a q that is up to {age} steps old can destroy training"
            self._events += [f"InfluenceWeighting: {aged}; set refresh=1 (query_batch=50 keeps that cheap) or gain=1."]
            warnings.warn(self._events[-1], stacklevel=2)

    def __call__(self, step: Step) -> Tensor:
        """The weights, [B], detached, in [0, 2] before the mean is scaled towards 1."""
        if step.at is not None:
            return self._ahead(step, step.at)
        if self.pace.epochs is not None:
            return self._stored(step)
        q = self.direction(step.number)
        if q is None:
            return step.ones
        self._scores, weights = self._weigh(step, q)
        return weights

    def direction(self, number: int) -> Vector | None:
        """q, renewed where it is due; None where weights are stored or have not begun, or once weighting was stopped."""
        if self.pace.epochs is not None or self._waits(number):
            return None
        if not self.guard.tripped:
            self._curvature(number)
            if self._q is None or number - self._renewed >= self.pace.steps:
                self._renew(number)
        return self._q

    def _pace(self, epochs: float, written: bool) -> Pace:
        """When weights are taken in a run of that many epochs; `written` as in `Setting`."""
        return pace_of(self.refresh, "InfluenceWeighting: refresh", 0.0 if written else epochs)

    def _parts(self, count: int) -> int:
        """Parts that a query set of that many samples is cut into."""
        if self.turns != AUTO:
            return min(int(self.turns), count)
        ages = self.pace.epochs is None and self.pace.steps > 1 and self.gain <= 1 and self.query_batch is None
        return parts_of(count, min(self.TURNS, self.OLDEST // self.pace.steps)) if ages else 1

    def _begin(self, pace: Pace) -> int:
        """Epochs before the weights begin."""
        return max(self.start, int(pace.epochs is not None))

    def _waits(self, number: int) -> bool:
        """Whether the weights have not begun."""
        return number < self.start * self.setting.per_epoch

    def _stored(self, step: Step) -> Tensor:
        """Weights from the table, which is made anew where it is due."""
        if not self.guard.tripped and self._table.due(step.number, self.setting.per_epoch):
            self._rescore(step.number)
        if self.guard.tripped or self._table.weights is None or self._table.scores is None:
            self._scores = None
            return step.ones
        self._scores = step.batch.looked_up(self._table.scores)
        return step.batch.looked_up(self._table.weights)

    def _rescore(self, number: int) -> None:
        """Score every training sample on the present student, and note its weight.

        Raises:
            RunError: A score is NaN or infinite.
        """
        assert self.setting.queries is not None
        generator = self._generator(number, 2)
        drawn, everyone = [self.setting.draw(self.samples, generator)], self.setting.everyone
        seed = generator.initial_seed()
        with self._apart(number):
            with evaluating(self.setting.student):
                queries = self._cut_still(self._queries(number))
            found = score(self.setting.student, self.setting.task, everyone, queries, self.solver, seed=seed, curvature=drawn)
        scale = self._scale(self.pace)
        scaled = self._table.mean(found.index, normalise(self._finite(found.phi, number), scale))
        z = normalise(scaled, scale)
        weights = mean_one(squash(z, self.gain, self.clamp), self.MEAN_LIMIT)
        self._table.keep(found.index, scaled, found.phi, weights, number // self.setting.per_epoch)
        self._shares.append(float(effective_sample_size(weights)) / len(weights))
        self._figures = {"query_loss": found.query_loss, "saturated": float(saturated(z, self.gain, self.clamp))}
        self._figures["scale"] = float(found.phi.std(correction=0))
        self._look(number, found.query_loss)

    def _scale(self, pace: Pace) -> Normalise:
        """The normalisation asked for, or the one that goes with the pace."""
        return pace.scale if self.normalise == AUTO else check_normalise(self.normalise, "InfluenceWeighting")

    def _finite(self, phi: Tensor, number: int) -> Tensor:
        """The scores, when they are numbers.

        Raises:
            RunError: A score is NaN or infinite.
        """
        if not bool(torch.isfinite(phi).all()):
            raise RunError(
                f"InfluenceWeighting: scores are NaN or infinite at step {number}; use more damping or a smaller rate."
            )
        return phi

    def _ahead(self, step: Step, parameters: Vector) -> Tensor:
        """Weights at a lookahead, with a q of their own, as old as that of the student's weights may be."""
        if self.guard.tripped or self._waits(step.number):
            return step.ones
        self._curvature(step.number)
        if self._q_ahead is None or step.number - self._renewed_ahead >= self.pace.steps:
            self._q_ahead, query_loss = self._solve(step.number, parameters, step.queried)
            self._renewed_ahead = step.number
            if self._q is None:  # the student's own weights are not asked for, so nobody else has the guard look
                self._look(step.number, query_loss)
        return step.ones if self._q_ahead is None else self._weigh(step, self._q_ahead)[1]

    def _renew(self, number: int) -> None:
        """Renew q; look whether all is well."""
        self._q, query_loss = self._solve(number, None)
        self._renewed = number
        self._figures["query_loss"] = query_loss
        self._look(number, query_loss)

    def _curvature(self, number: int) -> None:
        """Have the solver renew what is due, at its own pace: statistics that run along do so between two renewals of q too."""
        count = self.solver.wants(number, self.samples)
        if count:
            with self._apart(number):
                self.solver.update(self._problem(number, count), number)

    def _look(self, number: int, query_loss: float) -> None:
        """Have the guard look where it is time, and stop weighting where it says so; all processes decide alike."""
        if self._looked is not None and number - self._looked < self.LOOK_EVERY:
            return
        assert self.setting.queries is not None
        query_loss = float(self.setting.gather(torch.tensor([query_loss], device=self.setting.queries.index.device)).mean())
        share = sum(self._shares) / len(self._shares) if self._shares else 1.0
        self._shares.clear()
        self._looked = number
        trouble = self.guard.look(query_loss, share)
        if trouble:
            self._scores, self._q, self._q_ahead = None, None, None
            self._figures = {"query_loss": query_loss}
            self._events.append(f"at step {number}: {trouble}")

    def _solve(self, number: int, parameters: Vector | None, queried: tuple[Vector, float] | None = None) -> tuple[Vector, float]:
        """Q and the mean query loss, at the student's own or at other parameters."""

        def gradient(few: Batch) -> tuple[Vector, float]:
            return mean_gradient(self.setting.student, self.setting.task.query_loss, self._cut(few), parameters)

        turned = self._turned if parameters is None else self._turned_ahead
        with self._apart(number):
            v, query_loss = queried or turned(self._queries(number), gradient)
            return self.solver.solve(v, self._problem(number, self.samples)), query_loss

    def _apart(self, number: int) -> AbstractContextManager[None]:
        """Dropout in passes of our own draws from its own numbers, so that the student's are those of an unweighted run."""
        return random_state(self._generator(number, 3).get_state())

    def _queries(self, number: int) -> Batch:
        queries = self.setting.queries
        assert queries is not None
        if self.query_batch is None or self.query_batch >= len(queries):
            return queries
        return queries.take(torch.randperm(len(queries), generator=self._generator(number, 1))[: self.query_batch])

    def _problem(self, number: int, count: int) -> Problem:
        generator = self._generator(number, 2)
        drawn = Later(lambda: self.setting.draw(count, generator))
        return Problem(self.setting.student, self.setting.task, drawn, generator)

    def _generator(self, number: int, stream: int) -> torch.Generator:
        """The random numbers of one step: they depend on seed and step alone, so that a resumed run draws the same."""
        return torch.Generator().manual_seed((self.setting.seed * 1_000_003 + number * 4 + stream) % 2**63)

    def _weigh(self, step: Step, q: Vector) -> tuple[Tensor, Tensor]:
        """This process's scores, and its weights normalised over the samples of all processes.

        Raises:
            RunError: A score is NaN or infinite.
        """
        phi = -step.dot(q)
        everyone = self._finite(self.setting.gather(phi), step.number)
        z = normalise(everyone, self._scale(Pace(self.pace.steps, None)))
        weights = mean_one(squash(z, self.gain, self.clamp), self.MEAN_LIMIT)
        if step.at is None:
            self._figures["saturated"] = float(saturated(z, self.gain, self.clamp))
            self._figures["scale"] = float(everyone.std(correction=0))
            self._shares.append(float(effective_sample_size(weights)) / len(weights))
        return phi, self.setting.own(weights, len(phi))

    def schedule(self, epochs: float, *, written: bool = False) -> str:
        """When weights are taken, and by what scale."""
        pace = self._pace(epochs, written)
        begin = self._begin(pace)
        if begin >= epochs:
            return f"not taken: they would begin after {begin} epochs, and the run has {epochs:g}"
        return f"{pace.told(begin)}; scores are scaled by {self._scale(pace)}"

    def extra(self, epochs: float, *, written: bool = False) -> float:
        """What scores take, in parts of the plain steps of the run."""
        pace = self._pace(epochs, written)
        return pace.extra(self._begin(pace), epochs)

    def last_scores(self) -> Tensor | None:
        """Phi of the samples weighed last, [B]; None once weighting was stopped."""
        return self._scores

    def figures(self) -> dict[str, float]:
        """Query loss at the last renewal (of parts each at its last turn), share of saturated weights, and the scale of phi."""
        return dict(self._figures)

    def events(self) -> list[str]:
        """What the guard had to say since the last call."""
        said, self._events = self._events, []
        return said

    def state(self) -> dict[str, Tensor]:
        """The solver, q and its age, the stored weights, the guard, and the figures told last."""
        flat = {f"q/{name}": part for name, part in (self._q or {}).items()}
        flat |= {f"ahead/{name}": part for name, part in (self._q_ahead or {}).items()}
        for who, of in (("solver", self.solver), ("turned", self._turned), ("turned ahead", self._turned_ahead)):
            flat |= {f"{who}/{name}": part for name, part in of.state().items()}
        looked = -1 if self._looked is None else self._looked
        numbers = [
            self.guard.best,
            self.guard.bad,
            self.guard.looks,
            self.guard.tripped,
            self._renewed,
            looked,
            self._renewed_ahead,
        ]
        flat["guard"] = torch.tensor(numbers, dtype=torch.float64)
        flat |= {f"table/{name}": part for name, part in self._table.state().items()}
        flat["shares"] = torch.tensor(self._shares, dtype=torch.float64)
        flat |= {f"figures/{name}": torch.tensor(value, dtype=torch.float64) for name, value in self._figures.items()}
        return flat

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `state` gave."""
        self._q = {key.removeprefix("q/"): part for key, part in state.items() if key.startswith("q/")} or None
        takers: dict[str, Callable[[Mapping[str, Tensor]], None]] = {
            "solver": self.solver.load_state,
            "turned": self._turned.load_state,
            "turned ahead": self._turned_ahead.load_state,
            "table": self._table.load_state,
        }
        for who, take in takers.items():
            take({key.removeprefix(f"{who}/"): part for key, part in state.items() if key.startswith(f"{who}/")})
        self._q_ahead = {key.removeprefix("ahead/"): part for key, part in state.items() if key.startswith("ahead/")} or None
        best, bad, looks, tripped, renewed, looked, ahead = state["guard"].tolist()
        self.guard.best, self.guard.bad, self.guard.looks, self.guard.tripped = best, int(bad), int(looks), bool(tripped)
        self._renewed, self._renewed_ahead = int(renewed), int(ahead)
        self._looked = None if looked < 0 else int(looked)
        self._shares = state["shares"].tolist()
        self._figures = {key.removeprefix("figures/"): float(part) for key, part in state.items() if key.startswith("figures/")}
        self._events.clear()

    def __repr__(self) -> str:
        return shown(self, "solver", "normalise", "gain", "refresh")
