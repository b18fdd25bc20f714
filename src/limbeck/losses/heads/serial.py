"""Task serialisation with the distillation first (Park and Lee, 2024): the term's logits are those of the net that is kept."""

from typing import final

from torch import Tensor, nn

from limbeck.align.taps import classifier_of, with_classifier
from limbeck.core.errors import UsageError
from limbeck.core.outputs import Views
from limbeck.core.shown import arguments
from limbeck.core.term import Moment, Scene, Term
from limbeck.losses.heads.onhead import LOGITS, OnHead
from limbeck.losses.labels.ce import CE
from limbeck.students.heads import Shift


@final
class Serial(Term):
    """term(W z + a, y) with z the student's logits and a linear layer (W, a) that becomes part of the net that is kept.

    The other terms of the objective see z, the student's own logits: `AEKT() + Serial(CE())` distils on z and classifies on
    W z + a. W begins as the identity, and weight decay pulls it there. After training the layer is folded into the
    classifier, (W V, W v + a): the net has the size it had.

    Args:
        term: Any term that reads logits only; CE() where none is named.

    Shapes: logits [B, C] or [B, L, V], as the inner term takes them -> [B].

    Raises:
        UsageError: The term reads more than logits, or the student's classifier is not linear.

    Reference: Park, Lee, 2024, arXiv:2409.01679 (AEKT). Differs from the paper: reconstructed; that one linear
    layer separates the two tasks in series is the paper's, which of them comes first, and the start as the identity, are not
    known to be.

    >>> Serial(CE())
    Serial(CE())
    """

    builds = True
    deploys = True

    def __init__(self, term: Term | None = None) -> None:
        super().__init__()
        self.layer = OnHead(CE() if term is None else term, LOGITS, "identity")
        self.needs, self.coupled = self.layer.needs, self.layer.coupled

    def build(self, scene: Scene) -> None:
        """Make the layer."""
        self.layer.build(scene)

    def at(self, moment: Moment) -> None:
        """Tell the inner term."""
        self.layer.at(moment)

    def forward(self, views: Views) -> Tensor:
        """One value per sample, [B]."""
        value: Tensor = self.layer(views)
        return value

    def answer(self, views: Views) -> Tensor:
        """W z + a."""
        return self.layer.answers(views)[0]

    def deploy(self, student: nn.Module) -> nn.Module:
        """A copy of the student with the layer folded into its classifier, its last linear layer.

        Raises:
            UsageError: There is no such layer, or it does not give the logits.
        """
        (shift,), classifier = self.layer.heads, classifier_of(student)
        assert isinstance(shift, Shift)
        if classifier.out_features != shift.change.in_features:
            raise UsageError(
                f"Serial: the last linear layer gives {classifier.out_features} features and no logits for "
                f"{shift.change.in_features} classes; use OnHead(..., tap='logits', head='identity') for the distillation."
            )
        return with_classifier(student, shift.after(classifier))

    def extra_repr(self) -> str:
        """The arguments."""
        return arguments(self, "term", term=self.layer.term)
