"""Notices a run that its own weights drive astray. Knows nothing of scores or models."""

import math
from dataclasses import dataclass, field


@dataclass
class Guard:
    """Watches the query loss over refreshes of q, and the spread of the weights.

    Steep weights along an old direction push the student until the true query gradient has turned round: a delayed feedback
    loop that ends at chance. Its mark is a query loss that climbs far above the best one seen and stays there.

    Args:
        classes: Number of classes; log(classes) is the loss of a guess.
        patience: Bad looks in a row before weighting stops, >= 1.
        rise: How far above the best query loss a look is bad, as a share of log(classes), > 0.
        least_share: A look is also bad when fewer than this share of a batch carries its weights (effective sample size).
    """

    classes: int
    patience: int = 3
    rise: float = 0.5
    least_share: float = 0.1
    best: float = field(default=math.inf, init=False)
    bad: int = field(default=0, init=False)
    tripped: bool = field(default=False, init=False)

    def look(self, query_loss: float, effective_share: float) -> str | None:
        """Take one look; gives the sentence to show when weighting must stop, once.

        Args:
            query_loss: Mean loss of the query set now (nats).
            effective_share: Effective sample size over the number of samples, in [0, 1], averaged since the last look.
        """
        if self.tripped:
            return None
        limit = self.best + self.rise * math.log(max(self.classes, 2))
        climbed, lone = not query_loss <= limit, effective_share < self.least_share
        self.best = min(self.best, query_loss)
        self.bad = self.bad + 1 if climbed or lone else 0
        if self.bad < self.patience:
            return None
        self.tripped = True
        why = (
            f"the query loss rose from {self.best:.3g} to {query_loss:.3g} and stayed there"
            if climbed
            else f"only {effective_share:.0%} of the samples carried the weight"
        )
        return (
            f"influence weighting was stopped, all weights are 1 from here on, since {why}; lower gain or refresh q more often."
        )
