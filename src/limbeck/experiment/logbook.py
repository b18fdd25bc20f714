"""What a training run leaves behind: rows of metrics, and each sample's weight and score over time."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, final
from warnings import WarningMessage

import torch
from torch import Tensor

from limbeck.align.taps import Tapped
from limbeck.core.batch import Batch
from limbeck.distiller import Distiller
from limbeck.evaluation.figures import Figures
from limbeck.experiment.measuring import figures_of
from limbeck.experiment.progress import Progress
from limbeck.training.callback import Callback
from limbeck.training.shares import gradient_shares
from limbeck.training.training import Record, Training

LEAST_APART, LOOKS = 100, 10
"""Steps between two looks at the terms' gradients at the least, and looks in a run at the most."""
FAINT = 0.01
"""A term with less than this share of the student's gradient is told of."""


@final
class Logbook(Callback):
    """One row of means over the training steps and one of the validation set for every epoch.

    Args:
        labels: What stands in every row: seed and arm.
        steps_per_epoch: Of the loader.
        validation: The validation set.
        clean: bool by sample identity, true where the given label is right; None where nobody knows.
        said: Where warnings are caught while the run trains; each becomes an event at the step that follows it.
        kept: The net that would be kept if the training ended now: the figures of the validation set are its.
    """

    def __init__(
        self,
        labels: Mapping[str, object],
        steps_per_epoch: int,
        validation: Batch,
        clean: Tensor | None,
        said: list[WarningMessage] | None = None,
        kept: Callable[[Distiller], Tapped] = Distiller.deployed,
    ) -> None:
        self.labels, self.per_epoch, self.validation, self.clean = labels, steps_per_epoch, validation, clean
        self.said = [] if said is None else said
        self.kept = kept
        self.rows: list[dict[str, Any]] = []
        self.events: list[dict[str, Any]] = []
        self.shares: dict[str, list[float]] = {}
        self.looked = 0
        self._last: Record | None = None
        self._losses: list[float] = []
        self._terms: list[dict[str, float]] = []
        self._weighted: list[dict[str, float]] = []
        self._figures: list[dict[str, float]] = []
        self._weights: list[Tensor] = []
        self._index: list[Tensor] = []

    def after_step(self, training: Training, record: Record) -> None:
        """Take note of the step."""
        self._last = record
        self._losses.append(record.loss)
        self._terms.append(record.terms)
        self._weighted.append(record.weighted)
        self._figures.append(record.figures)
        self._weights.append(record.weights.detach().cpu())
        self._index.append(record.batch.index.cpu())
        warned = [str(one.message) for one in self.said if issubclass(one.category, UserWarning)]
        self.said.clear()
        self.note(training.number, [*training.distiller.weighting.events(), *warned])

    def note(self, step: int, sentences: Iterable[str]) -> None:
        """Each sentence becomes an event once."""
        known = {event["what"] for event in self.events}
        self.events += [{**self.labels, "step": step, "what": what} for what in dict.fromkeys(sentences) if what not in known]

    def after_epoch(self, training: Training) -> None:
        """Write the epoch's two rows."""
        place = {"step": training.number, "epoch": -(-training.number // self.per_epoch)}
        train = {"loss": _mean(self._losses), "terms": _means(self._terms), "weighted": _means(self._weighted)}
        train |= self._look(training)
        for name in sorted({name for row in self._figures for name in row}):
            train[name] = [row[name] for row in self._figures if name in row][-1]
        weights, index = torch.cat(self._weights), torch.cat(self._index)
        train["weights"] = weight_figures(weights, None if self.clean is None else self.clean[index])
        self.rows.append({**self.labels, "phase": "train", **place, **train})
        found = figures_of(self.kept(training.distiller), self.validation)
        self.rows.append({**self.labels, "phase": "validation", **place, "loss": found.nll, **_plain(found)})
        for part in self._collected:
            part.clear()

    def _look(self, training: Training) -> dict[str, Any]:
        """The terms' shares of the gradient, when it is time; at the end of the run faint ones are told of."""
        ended, terms = training.number == training.steps, training.distiller.objective.parts
        apart = max(LEAST_APART, training.steps // LOOKS)
        if self._last is None or len(terms) < 2 or not (ended or training.number - self.looked >= apart):
            return {}
        self.looked, found = training.number, gradient_shares(training, self._last)
        for name, share in found.items():
            self.shares.setdefault(name, []).append(share)
        if ended and self.shares:
            faint = [
                f"{name} made less than {FAINT:.0%} of the student's gradient over the run: give it a larger coefficient, "
                "the others a smaller one, or leave it out."
                for (coef, _), (name, shares) in zip(terms, self.shares.items(), strict=True)
                if coef != 0 and _mean(shares) < FAINT
            ]
            self.note(training.number, faint)
        return {"shares": found} if found else {}

    @property
    def _collected(self) -> tuple[list[Any], ...]:
        """What the present epoch has gathered so far."""
        return (self._losses, self._terms, self._weighted, self._figures, self._weights, self._index)

    def state(self) -> dict[str, Any]:
        """Rows so far, and what the present epoch has collected."""
        kept = {"rows": self.rows, "events": self.events, "shares": self.shares, "looked": self.looked}
        return {**kept, "collected": [list(part) for part in self._collected]}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take back what `state` gave."""
        self.rows, self.events, self.shares, self.looked = (state[name] for name in ("rows", "events", "shares", "looked"))
        self._losses, self._terms, self._weighted, self._figures, self._weights, self._index = state["collected"]


def weight_figures(weights: Tensor, clean: Tensor | None) -> dict[str, float]:
    """What the weights of many samples amount to; of flipped and clean ones apart where the truth is known."""
    total = float(weights.sum())
    figures = {
        "mean": float(weights.mean()),
        "std": float(weights.std(correction=0)),
        "min": float(weights.min()),
        "max": float(weights.max()),
        "below_one": float((weights < 1).float().mean()),
        "ess": total**2 / max(float(weights.square().sum()), 1e-30) / len(weights),
    }
    if clean is not None and clean.any() and not clean.all():
        figures |= {"flipped": float(weights[~clean].mean()), "clean": float(weights[clean].mean())}
    return figures


@final
class SampleTracker(Callback):
    """Each sample's last weight and its mean weight over the run, by identity.

    Args:
        count: Number of identities, N.
    """

    def __init__(self, count: int) -> None:
        self.last = torch.ones(count)
        self.total = torch.zeros(count, dtype=torch.float64)
        self.seen = torch.zeros(count, dtype=torch.int64)

    def after_step(self, training: Training, record: Record) -> None:
        """Take note of the step's weights."""
        index, weights = record.batch.index.cpu(), record.weights.detach().cpu()
        self.last[index] = weights.to(self.last)
        self.total.index_add_(0, index, weights.double())
        self.seen += torch.bincount(index, minlength=len(self.seen))

    @property
    def mean(self) -> Tensor:
        """[N] mean weight; 1 for samples that were never drawn."""
        return torch.where(self.seen > 0, self.total / self.seen.clamp(min=1), torch.ones_like(self.total)).float()

    def state(self) -> dict[str, Any]:
        """The three columns."""
        return {"last": self.last, "total": self.total, "seen": self.seen}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take back what `state` gave."""
        self.last, self.total, self.seen = state["last"], state["total"], state["seen"]


@final
class Advance(Callback):
    """Tells a progress display of steps, some at a time.

    Args:
        progress: The display.
        every: Steps between two tellings, >= 1.
    """

    def __init__(self, progress: Progress, every: int = 10) -> None:
        self.progress, self.every, self.told = progress, every, 0

    def after_step(self, training: Training, record: Record) -> None:
        """Tell; a run that goes on tells of the steps before it with its first word."""
        if training.number % self.every == 0 or training.number == training.steps:
            self.progress.advance(training.number - self.told)
            self.told = training.number


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _means(rows: list[dict[str, float]]) -> dict[str, float]:
    return {name: _mean([row[name] for row in rows]) for name in rows[0]}


def _plain(figures: Figures) -> dict[str, float]:
    plain = {"accuracy": figures.accuracy, "nll": figures.nll, "ece": figures.ece}
    return plain if figures.perplexity is None else {**plain, "perplexity": figures.perplexity}
