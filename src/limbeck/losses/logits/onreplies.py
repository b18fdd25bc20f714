"""Another term on one kind of reply alone: the preferred ones, the rejected ones, or those that the student wrote."""

from typing import Literal, final, get_args

import torch
from torch import Tensor

from limbeck.core.checks import one_of
from limbeck.core.errors import UsageError
from limbeck.core.outputs import Views
from limbeck.core.term import Moment, Term
from limbeck.data.preferences import REPLIES, REPLY
from limbeck.data.source import Source
from limbeck.losses.labels.ce import CE
from limbeck.losses.sides import logits_only, takes_over

Reply = Literal["chosen", "rejected", "own"]


@final
class OnReplies(Term):
    """The term's value for the replies of one kind, 0 for all other rows.

    With R kinds of replies in the data a batch has a share 1 / R of each, so the mean over a batch is 1 / R of the mean over one
    kind, for every term alike: the coefficients stay in the proportion of a loss that is written per prompt.

    Args:
        term: Any term on logits; CE() where none is named.
        reply: "chosen", "rejected" or "own".

    Shapes: those of the term, and batch.meta["reply"] [B], as `Preferences` gives it -> [B].

    Raises:
        UsageError: The reply is none of these, the term has parts of its own, or the batch says nothing of replies.

    Reference: Gao et al., 2025, arXiv:2502.17927, whose losses are sums over kinds of replies. Differs from the paper: no.

    >>> OnReplies(CE(), "chosen")
    OnReplies(CE(), reply='chosen')
    """

    says = ("term", "reply")

    def __init__(self, term: Term | None = None, reply: Reply = "chosen") -> None:
        super().__init__()
        self.term = inner = logits_only(CE() if term is None else term, "OnReplies")
        self.reply = one_of(reply, get_args(Reply), "OnReplies: reply")
        takes_over(self, inner)

    def check(self, source: Source) -> None:
        """See that the data have replies of this kind, without which the term is 0 throughout; no batch can tell.

        Raises:
            UsageError: They have none.
        """
        if REPLY in source.meta and not bool((source.meta[REPLY] == REPLIES.index(self.reply)).any()):
            raise UsageError(f"{self!r}: {source.name} has no {self.reply!r} replies; name their column with {self.reply}=...")

    def at(self, moment: Moment) -> None:
        """Tell the inner term."""
        self.term.at(moment)

    def forward(self, views: Views) -> Tensor:
        """One value per sample, [B].

        Raises:
            UsageError: The batch says nothing of replies.
        """
        if REPLY not in views.batch.meta:
            raise UsageError(f"OnReplies needs the column {REPLY!r}, but the batch has none; read the data by Preferences(...).")
        values: Tensor = self.term(views)
        asked = views.batch.meta[REPLY] == REPLIES.index(self.reply)
        return torch.where(asked, values, torch.zeros_like(values))
