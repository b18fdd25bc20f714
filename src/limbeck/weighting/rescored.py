"""Influence weights that are stored per sample and scored anew every few epochs: a step then costs what a plain one costs."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from limbeck.core.checks import whole
from limbeck.core.errors import UsageError
from limbeck.weighting.squash import Normalise

AUTO = "auto"
LONG, ROUNDS = 10, 15
"""Epochs of a run from which "auto" stores weights, and how many rounds of scores it then takes at least, if they are to be at
least two epochs apart."""
STEPS = 20
"""Steps between two renewals of q where none are named."""
EACH_STEP, FIRST_ROUND, LATER_ROUND = 0.3, 1.0, 0.4
"""What a step's weights take in plain steps, and a round of scores in epochs of plain steps; the middle of what
`benchmarks/step.py` finds. Later rounds have the teacher's answers."""


@dataclass(frozen=True)
class Pace:
    """When weights are taken.

    Args:
        steps: Steps between two renewals of q where weights are taken at each step, and of the lookahead's in any case, >= 1.
        epochs: Epochs between two rounds of scores where weights are stored, >= 1; None where they are taken at each step.
    """

    steps: int
    epochs: int | None

    @property
    def scale(self) -> Normalise:
        """The normalisation that suits it: steep weights only where they do not answer to the step that they act on."""
        return "zscore" if self.epochs is None else "median"

    def told(self, begin: int) -> str:
        """The pace in words, of weights that begin after that many epochs."""
        if self.epochs is None:
            late = f" from epoch {begin + 1} on" if begin else ""
            return f"taken at every step{late}, along a q that is renewed every {_several(self.steps, 'step')}"
        first = "the first epoch" if begin == 1 else f"{begin} epochs"
        return f"stored: all training samples are scored after {first} and then every {_several(self.epochs, 'epoch')}"

    def extra(self, begin: int, epochs: float) -> float:
        """What it takes beyond the plain steps of a run of `epochs`, in parts of those; weights begin after `begin` epochs."""
        left = max(epochs - begin, 0.0)
        if self.epochs is None:
            return EACH_STEP * left / epochs
        rounds = math.ceil(left / self.epochs)
        return (FIRST_ROUND + LATER_ROUND * (rounds - 1)) / epochs if rounds else 0.0


def _several(count: int, what: str) -> str:
    return what if count == 1 else f"{count} {what}s"


def pace_of(refresh: int | str, who: str, length: float = 0.0) -> Pace:
    """What `refresh` means in a run of that many epochs.

    Args:
        refresh: Steps between two renewals of q, "epochs:N", or "auto": 20 in less than ten epochs; from there on, where there is
            time for weights that come after the first, "epochs:2", or a fifteenth of the run if that is more.
        who: For the error.
        length: Epochs of the run.

    Raises:
        UsageError: It is neither a whole number of at least 1 nor "auto" nor of the form "epochs:5".
    """
    if refresh == AUTO:
        return Pace(STEPS, max(2, int(length) // ROUNDS) if length >= LONG else None)
    if not isinstance(refresh, str):
        return Pace(whole(refresh, who), None)
    found = re.fullmatch(r"epochs:([1-9]\d*)", refresh)
    if found is None:
        raise UsageError(f'{who} must be a number of steps such as 20, "epochs:5" or "auto", got {refresh!r}.')
    return Pace(STEPS, int(found[1]))


@final
class Table:
    """The scores and weights of all training samples, by identity, and when they were taken.

    The first epoch is unweighted, since a net that has seen nothing yet has little to say of its samples; scores are taken
    after it and then every `epochs` epochs. The score of one moment is noisy, so a weight goes by a running mean of a sample's
    scores, each round's on its own scale, in which what is two epochs older counts 0.7 times as much. (TracIn sums over
    checkpoints: Pruthi and others, arXiv:2002.08484, eq. 3.)

    Args:
        epochs: Epochs between two rounds of scores, >= 1.
        start: Epochs before the first round, if more than one.
    """

    KEPT = 0.7
    """What two epochs leave of a round's say in the running mean."""

    def __init__(self, epochs: int, start: int = 1) -> None:
        self.epochs, self.first = epochs, max(start, 1)
        self.share = 1 - self.KEPT ** (epochs / 2)
        self.scores: Tensor | None = None
        self.weights: Tensor | None = None
        self.scaled: Tensor | None = None
        self.taken = -1

    def due(self, number: int, per_epoch: int) -> bool:
        """Whether scores are to be taken before step `number`."""
        epoch = number // per_epoch
        first = self.first
        return epoch >= first and (self.taken < 0 or (epoch - first) // self.epochs > (self.taken - first) // self.epochs)

    def mean(self, index: Tensor, scaled: Tensor) -> Tensor:
        """The running mean over the rounds so far, with this one, [N].

        Args:
            index: int64 [N], identities.
            scaled: [N], this round's scores on a common scale.
        """
        return scaled.float() if self.scaled is None else torch.lerp(self.scaled[index], scaled.float(), self.share)

    def keep(self, index: Tensor, scaled: Tensor, scores: Tensor, weights: Tensor, epoch: int) -> None:
        """Store a round of scores.

        Args:
            index: int64 [N], identities.
            scaled: [N], what `mean` gave.
            scores: [N], phi of this round.
            weights: [N].
            epoch: Epochs gone by.
        """
        size = int(index.max()) + 1
        self.scaled = torch.zeros(size, device=scores.device).index_put((index,), scaled.float())
        self.scores = torch.zeros(size, device=scores.device).index_put((index,), scores.float())
        self.weights = torch.ones(size, device=weights.device).index_put((index,), weights.float())
        self.taken = epoch

    def state(self) -> dict[str, Tensor]:
        """For a checkpoint."""
        if self.scores is None or self.weights is None or self.scaled is None:
            return {}
        return {"scores": self.scores, "weights": self.weights, "scaled": self.scaled, "taken": torch.tensor(self.taken)}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `state` gave."""
        self.scores, self.weights, self.scaled = state.get("scores"), state.get("weights"), state.get("scaled")
        self.taken = int(state.get("taken", torch.tensor(-1)))
