"""Cross-entropy with the given labels."""

from typing import final

from torch import Tensor

from limbeck.core.checks import fraction
from limbeck.core.outputs import Views
from limbeck.core.term import Term
from limbeck.functional.divergences import cross_entropy, full_precision, token_mean
from limbeck.losses.sides import fitting_labels, samples_only


@final
class CE(Term):
    """-log softmax(student)_y, in nats, per sample; with smoothing the label is mixed with the uniform distribution.

    Where a transform mixed samples in pairs, lambda l(y) + (1 - lambda) l(y'), each label with its share. A label of -1 is none:
    the sample costs 0, a token does not count.

    Args:
        smoothing: Share of the uniform distribution in the target, in [0, 1].

    Shapes: logits [B, C] and labels [B], or [B, L, V] and [B, L] with batch.mask [B, L] -> [B].

    Raises:
        ShapeError: Logits and labels do not fit together.
        UsageError: smoothing lies outside [0, 1], or the batch has no labels.

    Reference: label smoothing as in Szegedy et al., 2016, arXiv:1512.00567, sec. 7. Differs from the paper: no.

    >>> CE(smoothing=0.1)
    CE(smoothing=0.1)
    """

    needs = frozenset({"targets"})

    def __init__(self, smoothing: float = 0.0) -> None:
        super().__init__()
        self.smoothing = fraction(smoothing, "CE: smoothing")

    def forward(self, views: Views) -> Tensor:
        """One value per sample, [B]."""
        logits, mixture = views.student.logits, views.batch.mixture
        if mixture is None:
            return token_mean(cross_entropy(logits, fitting_labels(views, "CE"), self.smoothing), views.batch.label_mask)
        samples_only(logits, "CE")
        first, second, share = mixture
        share = share.to(full_precision(logits).dtype)
        both = cross_entropy(logits, first, self.smoothing), cross_entropy(logits, second, self.smoothing)
        return share * both[0] + (1 - share) * both[1]
