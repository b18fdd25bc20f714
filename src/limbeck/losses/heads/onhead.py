"""Any term on logits, on the logits of a head of its own (Yang et al., 2024; Hao et al., 2023)."""

from dataclasses import replace
from typing import final

import torch
from torch import Tensor, nn

from limbeck.align.taps import PENULTIMATE, features_of
from limbeck.core.errors import ShapeError, UsageError
from limbeck.core.outputs import Outputs, Views
from limbeck.core.term import Moment, Scene, Term
from limbeck.functional.divergences import full_precision
from limbeck.functional.pooling import pooled
from limbeck.losses.logits.kd import KD
from limbeck.losses.sides import logits_only
from limbeck.students.heads import head_name, make_head

LOGITS = "logits"
"""The tap that is no module: what the student answers."""


@final
class OnHead(Term):
    """sum_k term(head_k(f_k), teacher, y): another term on the logits of heads that only training has.

    One head per feature that the tap fits; its loss reaches the student below the tap and nothing above. The heads live in the
    objective: the student that is kept has exactly its own parameters.

    Args:
        term: Any term that reads logits only; KD() where none is named.
        tap: What the heads stand on: `penultimate`, the input of the classifier; `logits`, the student's answer; or names (or
            a glob) of modules, one head for each.
        head: `linear`; `mlp`, a hidden layer of 200 with dropout 0.1 and batch normalisation; `identity`, on logits, a linear
            layer that begins as the identity and that weight decay pulls there; `exit`, for maps, convolutions down to the
            last stage (`linear` on vectors).

    Shapes: features [B, D], [B, L, D] or [B, C, H, W] -> [B]. Maps are averaged over their places, tokens over those that
    count, unless the student answers for every token.

    Raises:
        ShapeError: A head cannot be made for such features, or the term does not take such logits.
        UsageError: The term reads more than logits, or the head is unknown.

    Reference: auxiliary head: Yang et al., 2024, arXiv:2411.08937; exits at stages: Hao et al., 2023, arXiv:2310.19444; linear
    layer after the classifier: Park, Lee, 2024, arXiv:2409.01679. Differs from the papers: an exit ends with the student's own
    width, and for vectors and tokens it is one linear layer.

    >>> OnHead(KD(T=2), head="mlp")
    OnHead(KD(T=2), tap='penultimate', head='mlp')
    """

    builds = True
    says = ("term", "tap", "head")

    def __init__(self, term: Term | None = None, tap: str = PENULTIMATE, head: str = "linear") -> None:
        super().__init__()
        self.term = logits_only(KD() if term is None else term, "OnHead")
        self.tap = tap
        self.head = head_name(head, "OnHead")
        self.heads = nn.ModuleList()
        self.needs = self.term.needs if tap == LOGITS else self.term.needs | {"student_features"}
        self.coupled = self.term.coupled or head in ("mlp", "exit")  # batch normalisation

    @property
    def student_taps(self) -> tuple[str, ...]:
        """What the heads stand on."""
        return () if self.tap == LOGITS else (self.tap,)

    def build(self, scene: Scene) -> None:
        """Make one head per feature.

        Raises:
            ShapeError: A head cannot be made for such features.
        """
        found = self._features(scene.views)
        last = found[-1].shape[1]
        for number, feature in enumerate(found):
            halvings = len(found) - 1 - number
            try:
                head = make_head(self.head, feature, scene.classes, halvings=halvings, last=last)
            except ShapeError as error:
                raise ShapeError(f"OnHead: {error}") from error
            self.heads.append(head.to(full_precision(feature).dtype))

    def at(self, moment: Moment) -> None:
        """Tell the inner term."""
        self.term.at(moment)

    def answers(self, views: Views) -> list[Tensor]:
        """The logits of every head.

        Raises:
            UsageError: The heads have not been made.
        """
        if not len(self.heads):
            raise UsageError("OnHead: its heads have not been made; call distiller.build(loader) before.")
        own = next(self.heads.parameters()).dtype
        return [head(part.to(own)) for head, part in zip(self.heads, self._features(views), strict=True)]

    def forward(self, views: Views) -> Tensor:
        """One value per sample, [B]."""
        features = views.student.features
        values = [self.term(replace(views, student=Outputs(logits, features))) for logits in self.answers(views)]
        return torch.stack(values).sum(0)

    def _features(self, views: Views) -> list[Tensor]:
        """What the heads are called with."""
        if self.tap == LOGITS:
            return [views.student.logits]
        found = features_of(views.student, self.tap, "OnHead")
        if views.student.logits.dim() == 3:
            return found
        return [pooled(part, views.batch.mask, "OnHead") if part.dim() == 3 else part for part in found]
