"""Another term on what is not private: labels are not to give away what a teacher's answer may not (Li et al., 2022)."""

from dataclasses import replace
from typing import final

from torch import Tensor

from limbeck.core.checks import fraction
from limbeck.core.outputs import Views
from limbeck.core.term import Moment, Term
from limbeck.losses.labels.ce import CE
from limbeck.losses.logits.swing import privacy_of
from limbeck.losses.sides import logits_only, takes_over, tokens_only


@final
class Public(Term):
    """Another term on the tokens whose privacy is below a limit: `Swing() * 0.5 + Public(CE()) * 0.5` is swing distillation.

    Args:
        term: Any term on logits of tokens; CE() where none is named.
        below: The limit, in [0, 1].

    Shapes: logits [B, L, V] and batch.meta["privacy"] [B, L] or [B], with batch.mask [B, L] -> [B].

    Raises:
        ShapeError: The logits are not those of tokens, or the privacy scores do not fit them.
        UsageError: The limit is out of range, the term has parts of its own, or the scores are missing or not in [0, 1].

    Reference: Li et al., 2022, arXiv:2212.08349. Differs from the paper: reconstructed; the paper may treat labels otherwise.

    >>> Public()
    Public(CE(), below=0.5)
    """

    says = ("term", "below")

    def __init__(self, term: Term | None = None, below: float = 0.5) -> None:
        super().__init__()
        inner = self.term = logits_only(CE() if term is None else term, "Public")
        self.below = fraction(below, "Public: below")
        takes_over(self, inner)
        self.compiles = False  # the range of the scores is checked in every batch

    def at(self, moment: Moment) -> None:
        """Tell the inner term."""
        self.term.at(moment)

    def forward(self, views: Views) -> Tensor:
        """One value per sample, [B]."""
        tokens_only(views.student.logits, "Public")
        public, mask = privacy_of(views, "Public") < self.below, views.batch.mask
        kept = public if mask is None else public & mask
        value: Tensor = self.term(replace(views, batch=replace(views.batch, mask=kept)))
        return value
