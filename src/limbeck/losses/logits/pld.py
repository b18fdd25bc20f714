"""Plackett-Luce distillation (2025): the teacher's ranking, label first."""

from typing import Literal, final, get_args

import torch
from torch import Tensor

from limbeck.core.checks import one_of, positive
from limbeck.core.outputs import Views
from limbeck.core.term import Term
from limbeck.functional.divergences import full_precision, log_softmax, token_mean
from limbeck.functional.rankings import place_losses
from limbeck.losses.sides import both_logits, fitting_labels

Weights = Literal["teacher", "uniform"]


@final
class PLD(Term):
    """sum_k alpha_k (logsumexp of s over places k and later - s at place k): the ranking's likelihood, in nats, per sample.

    The places are the label first, then the other classes by falling teacher logit; alpha_k is the teacher's probability of
    the class at place k, at temperature T. It is the whole loss: no CE beside it, and it is not 0 where the student equals the
    teacher. With all weight on the first place it is CE.

    Args:
        T: Temperature of the weights, > 0; the student's logits are never softened. 1 for ImageNet, 4 in the CIFAR-100 table.
        weights: "teacher", or "uniform" for 1 / C at every place (ListMLE).

    Shapes: logits [B, C] and labels [B], or [B, L, V] and [B, L] with batch.mask [B, L] -> [B]. Teacher logits that are equal
    are ranked in any order.

    Raises:
        ShapeError: Student and teacher differ in their classes, or logits and labels do not fit together.
        UsageError: An argument is out of range, or there is no teacher or no label.

    Reference: PLD: a choice-theoretic list-wise knowledge distillation, 2025, arXiv:2506.12542. Differs from the paper: without
    its position-normalised variant.

    >>> PLD()
    PLD(T=1, weights='teacher')
    """

    needs = frozenset({"teacher", "targets"})
    says = ("T", "weights")

    def __init__(self, T: float = 1.0, weights: Weights = "teacher") -> None:
        super().__init__()
        self.T = positive(T, "PLD: T")
        self.weights = one_of(weights, get_args(Weights), "PLD: weights")

    def forward(self, views: Views) -> Tensor:
        """One value per sample, [B]."""
        (student, teacher), targets = both_logits(views, "PLD"), fitting_labels(views, "PLD")
        log_p = log_softmax(teacher, self.T)
        first = torch.zeros_like(log_p, dtype=torch.bool).scatter(-1, targets.unsqueeze(-1), True)
        places = log_p.masked_fill(first, torch.inf).argsort(-1, descending=True)
        ranked = full_precision(student).gather(-1, places)
        alpha = log_p.gather(-1, places).exp() if self.weights == "teacher" else torch.full_like(ranked, 1 / ranked.shape[-1])
        return token_mean((alpha * place_losses(ranked)).sum(-1), views.batch.mask)
