"""Notices a run that its own weights drive astray. Knows nothing of scores or models."""

import math
from dataclasses import dataclass, field


@dataclass
class Guard:
    """Watches the query loss, and the spread of the weights, some steps apart.

    Steep weights along an old direction push the student until the true query gradient has turned round: a delayed feedback
    loop that ends at chance. It has two marks: the query loss climbs far above the best one seen and stays there, or it never
    leaves the loss of a guess, log(classes). The thresholds were set on 50 recorded runs (docs/decisions/0003): with them 20 of
    21 collapses are noticed, and no run that came out well is stopped.

    Args:
        classes: Number of classes, >= 2.
        patience: Bad looks in a row before weighting stops, >= 1.
        rise: How far above the best query loss a look is bad, as a share of log(classes), > 0; of 1.4 where that is more.
        stuck: From `grace` looks on, a look is bad above this share of log(classes), in (0, 1].
        grace: Looks before a loss near that of a guess counts.
        least_share: A look is also bad when fewer than this share of a batch carries its weights (effective sample size).
    """

    classes: int
    patience: int = 3
    rise: float = 0.3
    stuck: float = 0.9
    grace: int = 20
    least_share: float = 0.1
    best: float = field(default=math.inf, init=False)
    bad: int = field(default=0, init=False)
    looks: int = field(default=0, init=False)
    tripped: bool = field(default=False, init=False)

    def look(self, query_loss: float, effective_share: float) -> str | None:
        """Take one look; gives the sentence to show when weighting must stop, once.

        Args:
            query_loss: Mean loss of the query set now (nats).
            effective_share: Effective sample size over the number of samples, in [0, 1], averaged since the last look.
        """
        if self.tripped:
            return None
        why = self._trouble(query_loss, effective_share)
        self.looks += 1
        self.best = min(self.best, query_loss)
        self.bad = self.bad + 1 if why else 0
        if self.bad < self.patience:
            return None
        self.tripped = True
        return (
            f"influence weighting was stopped, all weights are 1 from here on, since {why}; lower gain or refresh q more often."
        )

    def _trouble(self, query_loss: float, effective_share: float) -> str:
        """What is wrong at this look, in words; empty where nothing is. A loss that is NaN is wrong."""
        guess = math.log(max(self.classes, 2))
        if not query_loss <= self.best + self.rise * max(guess, 1.4):
            return f"the query loss rose from {self.best:.3g} to {query_loss:.3g} and stayed there"
        if self.looks >= self.grace and query_loss > self.stuck * guess:
            return f"the query loss does not fall below that of a guess ({query_loss:.3g} of {guess:.3g})"
        if effective_share < self.least_share:
            return f"only {effective_share:.0%} of the samples carried the weight"
        return ""
