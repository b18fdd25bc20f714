"""What the weights of a run amount to."""

from torch import Tensor

from limbeck.core.errors import UsageError


def effective_sample_size(weights: Tensor) -> float:
    """(sum w)^2 / sum w^2: how many equally weighted samples estimate a mean as precisely; N for equal weights, 0 for all 0.

    Shapes: weights [N], each finite and >= 0.

    Raises:
        UsageError: There is no weight, or one is negative, NaN or infinite.

    Reference: Kish, 1965, Survey Sampling, sec. 11.7.
    """
    if weights.dim() != 1 or len(weights) == 0 or not bool((weights.isfinite() & (weights >= 0)).all()):
        raise UsageError("effective_sample_size: expected a list [N] of finite weights of at least 0; check the run's weights.")
    w = weights.double()
    largest = w.max()
    if largest == 0:
        return 0.0
    w = w / largest  # squares of tiny weights would vanish
    return float(w.sum() ** 2 / (w**2).sum())
