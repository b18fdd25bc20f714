"""Teacher hacking: a student that nears its teacher while it leaves the truth behind, and how to notice it.

Knows nothing of runs: it is given curves, or the logits of two models on the same texts.

Reference: Tiapkin et al., 2025, arXiv:2502.02671. The estimator and the thresholds are this project's (docs/decisions).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from torch import Tensor

from limbeck.core.checks import not_negative, positive, whole
from limbeck.core.errors import ShapeError, UsageError
from limbeck.functional.divergences import forward_kl, log_softmax, token_mean

LEAST = 3
"""Points that a line is fitted to at least: two would lie on it whatever they are."""


def reference_divergence(reference: Tensor, student: Tensor, mask: Tensor) -> float:
    """D(a, s) = mean over texts y of (1/|y|) sum_t KL(a(.|x, y_<t) || s(.|x, y_<t)), in nats; 0 at equality, exactly.

    With the teacher as a, on texts of the teacher, it is the proxy that distillation lowers; with an oracle, on texts of the
    oracle, the golden metric. Texts are drawn once and kept.

    Shapes: logits [N, L, V] of both, mask bool [N, L], true where a label is the reference's own word.

    Raises:
        ShapeError: They do not fit together.
        UsageError: A text has no counted token.
    """
    if reference.dim() != 3 or reference.shape != student.shape or mask.shape != reference.shape[:2]:
        raise ShapeError(
            f"reference_divergence: logits {list(reference.shape)} and {list(student.shape)} must both be [N, L, V] and the mask "
            f"[N, L], got {list(mask.shape)}; evaluate both models on the same texts."
        )
    if not len(mask) or not bool(mask.any(1).all()):
        raise UsageError("reference_divergence: a text without a counted token has no divergence; leave it out.")
    return float(token_mean(forward_kl(log_softmax(reference.double()), log_softmax(student.double())), mask).mean())


@dataclass(frozen=True)
class PowerLaw:
    """M(n) = scale * n^exponent, what a healthy proxy follows, with an exponent below 0."""

    scale: float
    exponent: float

    @staticmethod
    def of(steps: Sequence[float], values: Sequence[float]) -> "PowerLaw":
        """The least-squares line of log values over log steps.

        Raises:
            ShapeError: There is not one value for each step.
            UsageError: There are fewer than three points, or one is not above 0, or steps do not rise.
        """
        _check_curve(steps, values)
        exponent, height = np.polyfit(np.log(steps), np.log(values), 1)
        return PowerLaw(math.exp(height), float(exponent))

    def residuals(self, steps: Sequence[float], values: Sequence[float]) -> list[float]:
        """Log value less log of what the law says, point by point."""
        return [
            math.log(value) - math.log(self.scale) - self.exponent * math.log(step)
            for step, value in zip(steps, values, strict=True)
        ]


@dataclass(frozen=True)
class HackingMonitor:
    """Raises an alarm where a curve has left its way for `patience` points in a row.

    Points are to be spaced evenly in log n, a factor of 2 apart or so: the alarm then comes at 2^(patience - 1) times the step of
    the first point that is off.

    Args:
        tau: How far log M_P may be from the law, in nats, > 0.
        rho: By what share M_G may be above its least value so far, >= 0.
        patience: Points in a row, >= 1.
        early: Points that the law is fitted to, >= 3; None: the first third, at least 3.

    Raises:
        UsageError: A value is out of its range.
    """

    tau: float = 0.1
    rho: float = 0.02
    patience: int = 2
    early: int | None = None

    def __post_init__(self) -> None:
        positive(self.tau, "HackingMonitor: tau")
        not_negative(self.rho, "HackingMonitor: rho")
        whole(self.patience, "HackingMonitor: patience")
        if self.early is not None:
            whole(self.early, "HackingMonitor: early", least=LEAST)

    def departed(self, steps: Sequence[float], proxy: Sequence[float]) -> int | None:
        """The place of the point at which M_P is off its law for good, seen without any oracle; None: it is not.

        Raises:
            ShapeError: There is not one value for each step.
            UsageError: There are fewer points than the law is fitted to, or one is not above 0, or steps do not rise.
        """
        _check_curve(steps, proxy)
        early = self.early if self.early is not None else max(LEAST, math.ceil(len(steps) / 3))
        law = PowerLaw.of(steps[:early], proxy[:early])
        return self._alarm([abs(one) > self.tau for one in law.residuals(steps, proxy)])

    def risen(self, golden: Sequence[float]) -> int | None:
        """The place of the point at which M_G has risen for good from its least value so far; None: it has not."""
        least, off = math.inf, []
        for value in golden:
            least = min(least, value)
            off.append(value > (1 + self.rho) * least)
        return self._alarm(off)

    def _alarm(self, off: list[bool]) -> int | None:
        row = 0
        for place, one in enumerate(off):
            row = row + 1 if one else 0
            if row == self.patience:
                return place
        return None


def _check_curve(steps: Sequence[float], values: Sequence[float]) -> None:
    if len(steps) != len(values):
        raise ShapeError(f"teacher hacking: {len(steps)} steps and {len(values)} values; give one value for each step.")
    if len(steps) < LEAST:
        raise UsageError(f"teacher hacking: a law needs at least {LEAST} points, got {len(steps)}; measure more often.")
    rising = all(one < other for one, other in pairwise(steps))
    if not rising or steps[0] <= 0 or not all(value > 0 and math.isfinite(value) for value in values):
        raise UsageError(
            "teacher hacking: steps must rise from above 0 and values must be finite and above 0, for their logarithms."
        )
