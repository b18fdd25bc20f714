"""Distillation without a teacher (Yuan et al., 2020): the control that label smoothing calls for."""

import math
from typing import final

import torch.nn.functional as F
from torch import Tensor

from limbeck.core.checks import positive, proper_fraction
from limbeck.core.outputs import Views
from limbeck.core.term import Term
from limbeck.functional.divergences import kd_divergence, token_mean
from limbeck.losses.sides import fitting_labels


@final
class VirtualTeacher(Term):
    """KD from a made-up teacher that gives the label the probability `correct` and every other class the same, per sample.

    A control: what it gains, no teacher's knowledge has brought.

    Args:
        correct: The label's probability at temperature 1, strictly between 0 and 1.
        T: Temperature, > 0.

    Shapes: logits [B, C] and labels [B], or [B, L, V] and [B, L] with batch.mask [B, L] -> [B].

    Raises:
        ShapeError: Logits and labels do not fit together.
        UsageError: An argument is out of range, or the batch has no labels.

    Reference: Yuan, Tay, Li, Wang, Feng, 2020, arXiv:1909.11723, sec. 5 (Tf-KD_reg). Differs from the paper: reconstructed from
    general knowledge. The virtual distribution is softened as a teacher's logits are, by a power 1 / T; the authors' code takes
    softmax of the probabilities divided by T.

    >>> VirtualTeacher()
    VirtualTeacher(correct=0.99, T=20)
    """

    needs = frozenset({"targets"})
    says = ("correct", "T")

    def __init__(self, correct: float = 0.99, T: float = 20.0) -> None:
        super().__init__()
        self.correct = proper_fraction(correct, "VirtualTeacher: correct")
        self.T = positive(T, "VirtualTeacher: T")

    def forward(self, views: Views) -> Tensor:
        """One value per sample, [B]."""
        logits, targets = views.student.logits, fitting_labels(views, "VirtualTeacher")
        height = math.log(self.correct * (logits.shape[-1] - 1) / (1 - self.correct))  # the label's logit, the others at 0
        teacher = height * F.one_hot(targets, logits.shape[-1]).to(logits.dtype)
        return token_mean(kd_divergence(logits, teacher, self.T), views.batch.mask)
