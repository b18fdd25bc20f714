"""A teacher before and after it was aligned to preferences."""

from collections.abc import Mapping
from dataclasses import replace
from typing import cast, final

from limbeck.core.batch import Batch
from limbeck.core.errors import UsageError
from limbeck.core.outputs import Outputs
from limbeck.evaluation.cost import parameters
from limbeck.teachers.teacher import Teacher


@final
class Aligned(Teacher):
    """Answers as the aligned teacher does, and says beside it what the same teacher answered before: `Outputs.reference`.

    The log-ratio of the two is what alignment has taught it: after direct preference optimisation, its reward per token.

    Args:
        after: The aligned teacher, such as one trained by DPO.
        before: Its reference, such as the same model after supervised fine-tuning; for the same tokens.

    Raises:
        UsageError: The reference gives neither logits nor its most probable classes.

    >>> from torch import nn
    >>> from limbeck.teachers.single import Single
    >>> sorted(Aligned(Single(nn.Linear(2, 3)), Single(nn.Linear(2, 3))).offers)
    ['features', 'logits', 'reference']
    """

    def __init__(self, after: Teacher, before: Teacher) -> None:
        super().__init__()
        if not before.offers & {"logits", "topk"}:
            raise UsageError(f"Aligned: {before!r} gives no probabilities, so there is nothing to compare with; take another.")
        self.after, self.before = after, before
        self.offers = after.offers | {"reference"}

    def forward(self, batch: Batch) -> Outputs:
        """Both answers, without a graph."""
        outputs, reference = cast(Outputs, self.after(batch)), cast(Outputs, self.before(batch))
        return replace(outputs, reference=replace(reference, features={}))

    def tap(self, names: tuple[str, ...]) -> None:
        """Have `forward` return these modules' outputs of the aligned teacher as features."""
        self.after.tap(names)

    @property
    def cost(self) -> Mapping[str, int | None]:
        """The parameters of both together, as far as both know theirs."""
        counts = [part.cost["parameters"] or parameters(part) for part in (self.after, self.before)]
        return {"parameters": sum(counts) if all(counts) else None, "flops": None}

    def __repr__(self) -> str:
        return f"Aligned({self.after!r}, {self.before!r})"
