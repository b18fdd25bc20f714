"""What terms read of tokens that were drawn: the columns that a step adds to the batches it writes."""

from torch import Tensor

from limbeck.core.errors import ShapeError, UsageError
from limbeck.core.outputs import Views
from limbeck.functional.divergences import full_precision

DRAWN = "log_drawn"
"""The column of log-probabilities, [B, L], at which the labels were drawn."""
ADVANTAGE = "advantage"
"""The column of advantages, [B]: how much better a completion is than the others behind its prompt."""
REFERENCE = "reference"
"""The column of log-probabilities, [B, L], that the student gave the labels before training."""


def drawn_column(views: Views, name: str, who: str) -> Tensor:
    """A column of a batch that was written, in the precision of the logits' divergences; masked tokens get 0.

    Raises:
        ShapeError: It does not fit the logits.
        UsageError: The batch has no such column.
    """
    batch, logits = views.batch, views.student.logits
    if name not in batch.meta:
        steps = "OnPolicy(1.0) or GRPO(...)" if name == DRAWN else "GRPO(...)"
        raise UsageError(
            f"{who} is for completions that a step has written, but this batch has no column {name!r}; take step: {steps}, and "
            "weights that do not ask for the loss on the data's own texts, such as Uniform() or InfluenceWeighting()."
        )
    column, wanted = batch.meta[name].to(full_precision(logits).dtype), logits.shape[: 1 if name == ADVANTAGE else 2]
    if column.shape != wanted:
        raise ShapeError(f"{who}: the column {name!r} must be {list(wanted)}, got {list(column.shape)}.")
    return column if batch.mask is None or column.shape != batch.mask.shape else column.where(batch.mask, 0)


def counted(views: Views) -> Tensor:
    """Which tokens count, bool [B, L]: all where there is no mask."""
    mask, logits = views.batch.mask, views.student.logits
    return logits.new_ones(logits.shape[:2]).bool() if mask is None else mask
