"""Knowledge distillation on softened logits (Hinton et al., 2015)."""

from typing import final

from torch import Tensor

from limbeck.core.checks import positive
from limbeck.core.outputs import Views
from limbeck.core.term import Term
from limbeck.functional.divergences import forward_kl
from limbeck.losses.sides import softened_between


@final
class KD(Term):
    """T^2 KL(softmax(teacher / T) || softmax(student / T)), in nats, per sample.

    Args:
        T: Temperature, > 0. The factor T^2 keeps the gradient's size independent of T.

    Shapes: logits [B, C], or [B, L, V] with batch.mask [B, L] -> [B].

    Raises:
        ShapeError: Student and teacher differ in their classes.
        UsageError: T is not above 0, or there is no teacher.

    Reference: Hinton, Vinyals, Dean, 2015, arXiv:1503.02531, sec. 2. Differs from the paper: no.

    >>> KD(T=2)
    KD(T=2)
    """

    needs = frozenset({"teacher"})
    lumps = True
    says = ("T",)

    def __init__(self, T: float = 4.0) -> None:
        super().__init__()
        self.T = positive(T, "KD: T")

    def forward(self, views: Views) -> Tensor:
        """One value per sample, [B]."""
        return softened_between(views, "KD", forward_kl, self.T)
