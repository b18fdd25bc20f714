"""The teacher ranks what the student proposes (Kim and Baek, 2026)."""

from typing import final

from torch import Tensor

from limbeck.core.checks import whole
from limbeck.core.outputs import Views
from limbeck.core.term import Term
from limbeck.functional.divergences import full_precision, token_mean
from limbeck.functional.rankings import place_losses
from limbeck.losses.sides import both_logits


@final
class Ranked(Term):
    """-log of the Plackett-Luce likelihood, under the student, of the teacher's ranking of the student's k most probable classes.

    -sum over j of (s_j - log sum over l >= j of exp s_l), s the student's logits of these classes, best in the teacher's eyes
    first. The teacher enters through the order alone: any increasing function of its logits gives the same value.

    Args:
        k: How many classes the student proposes, >= 2; all where there are fewer.

    Shapes: logits [B, C], or [B, L, V] with batch.mask [B, L] -> [B].

    Raises:
        ShapeError: Student and teacher differ in their classes.
        UsageError: k is too small, or there is no teacher.

    Reference: Kim, Baek, 2026, TSD-KD, arXiv:2603.13260, sec. 3, on the opening tokens: TokenSelect(Ranked(), by="opener").
    Differs from the paper: the mean over the tokens, not their sum, as in the authors' code, whose denominator however runs over
    the better-ranked classes: the likelihood of the reversed ranking. This follows the text.

    >>> Ranked()
    Ranked(k=10)
    """

    needs = frozenset({"teacher"})
    rests = False
    says = ("k",)

    def __init__(self, k: int = 10) -> None:
        super().__init__()
        self.k = whole(k, "Ranked: k", least=2)

    def forward(self, views: Views) -> Tensor:
        """One value per sample, [B]."""
        student, teacher = (full_precision(logits) for logits in both_logits(views, "Ranked"))
        proposed = student.topk(min(self.k, student.shape[-1]), dim=-1).indices
        order = teacher.gather(-1, proposed).argsort(dim=-1, descending=True, stable=True)
        scores = student.gather(-1, proposed.gather(-1, order))
        return token_mean(place_losses(scores).sum(-1), views.batch.mask)
