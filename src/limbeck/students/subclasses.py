"""From logits of pseudo-subclasses to logits of classes. Knows nothing of where subclasses come from."""

from typing import final

from torch import Tensor, nn


@final
class SubclassSum(nn.Module):
    """Log-sum-exp over the subclasses of every class: a class has the probability of all its subclasses together.

    Args:
        subclasses: Of each class; class c owns the columns c * subclasses and following.

    Shapes: [..., classes * subclasses] -> [..., classes].
    """

    def __init__(self, subclasses: int) -> None:
        super().__init__()
        self.subclasses = subclasses

    def forward(self, logits: Tensor) -> Tensor:
        """Class logits."""
        return logits.reshape(*logits.shape[:-1], -1, self.subclasses).logsumexp(-1)

    def extra_repr(self) -> str:
        """The number."""
        return str(self.subclasses)
