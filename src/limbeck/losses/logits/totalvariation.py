"""Total variation distance (as in Wen et al., 2023)."""

from typing import final

from torch import Tensor

from limbeck.core.checks import positive
from limbeck.core.outputs import Views
from limbeck.core.term import Term
from limbeck.functional.divergences import total_variation
from limbeck.losses.sides import softened_between


@final
class TotalVariation(Term):
    """T^2 sum |teacher - student| / 2 of the probabilities, per sample; bounded by T^2.

    It has a kink where a probability is met; its derivative there is taken as 0. Near the teacher it is linear and not
    quadratic: T^2 makes its gradient grow with T.

    Args:
        T: Temperature, > 0.

    Shapes: logits [B, C], or [B, L, V] with batch.mask [B, L] -> [B].

    Raises:
        ShapeError: Student and teacher differ in their classes.
        UsageError: T is not above 0, or there is no teacher.

    Reference: Wen, Li, Du, Mou, 2023, f-divergence minimization for sequence-level knowledge distillation, arXiv:2307.15190
    (from general knowledge). Differs from the paper: at every token, T^2.

    >>> TotalVariation()
    TotalVariation(T=1)
    """

    needs = frozenset({"teacher"})
    lumps = True
    says = ("T",)

    def __init__(self, T: float = 1.0) -> None:
        super().__init__()
        self.T = positive(T, "TotalVariation: T")

    def forward(self, views: Views) -> Tensor:
        """One value per sample, [B]."""
        return softened_between(views, "TotalVariation", total_variation, self.T)
