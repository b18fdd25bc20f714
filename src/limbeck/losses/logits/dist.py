"""Distillation by correlation (Huang et al., 2022)."""

from typing import final

import torch
from torch import Tensor

from limbeck.core.checks import not_negative, positive
from limbeck.core.outputs import Views
from limbeck.core.term import Term
from limbeck.functional.divergences import softened
from limbeck.losses.sides import both_logits, samples_only

TINY = 1e-8
"""A row or column whose centred entries have no larger norm counts as constant."""


@final
class DIST(Term):
    """T^2 (beta (1 - correlation of the rows) + gamma (1 - mean correlation of the columns)): an anchor's share.

    Rows are a sample's probabilities over the classes, columns a class's over the batch, each correlated (Pearson) between
    teacher and student. With centred vectors u, v of length 1 it is 1 - <u, v> = |u - v|^2 / 2, so that a sample's share of the
    columns is B / 2 mean_c (u_bc - v_bc)^2: never below 0, and 0 for each sample where teacher and student agree.

    Args:
        beta: Weight of the rows (inter-class), >= 0.
        gamma: Weight of the columns (intra-class), >= 0.
        T: Temperature, > 0. CIFAR recipes take beta = gamma = 2 and T = 4.

    Shapes: logits [B, C] -> [B]. Batches of fewer than 3 samples tell the columns nothing: with one they add 0.

    Raises:
        ShapeError: Student and teacher differ in their classes, or the logits are those of tokens.
        UsageError: An argument is out of range, or there is no teacher.

    Reference: Huang, You, Wang, Qian, Xu, 2022, arXiv:2205.10536, sec. 4. Differs from the paper: T^2, as ports have it. The
    authors' code adds 1e-8 to the denominator, which moves the value by some 1e-6 and keeps it from being 0 at the teacher; here
    the correlation is exact, and where one vector is constant the pair counts 1/2, not 1.

    >>> DIST(beta=2, gamma=2, T=4)
    DIST(beta=2, gamma=2, T=4)
    """

    needs = frozenset({"teacher"})
    coupled = True
    says = ("beta", "gamma", "T")

    def __init__(self, beta: float = 1.0, gamma: float = 1.0, *, T: float = 1.0) -> None:
        super().__init__()
        self.beta = not_negative(beta, "DIST: beta")
        self.gamma = not_negative(gamma, "DIST: gamma")
        self.T = positive(T, "DIST: T")

    def forward(self, views: Views) -> Tensor:
        """One value per sample, [B]."""
        student, teacher = both_logits(views, "DIST")
        samples_only(student, "DIST")

        def shares(log_p: Tensor, log_q: Tensor) -> Tensor:
            p, q = log_p.exp(), log_q.exp()
            rows = (centred_unit(p, 1) - centred_unit(q, 1)).square().sum(1) / 2
            columns = (centred_unit(p, 0) - centred_unit(q, 0)).square().mean(1) * (len(p) / 2)
            return self.beta * rows + self.gamma * columns

        return softened(shares, student, teacher, self.T)


def centred_unit(x: Tensor, dim: int) -> Tensor:
    """Less its mean and divided by its length along an axis; what is constant becomes 0, with finite derivatives."""
    centred = x - x.mean(dim, keepdim=True)
    squared = centred.square().sum(dim, keepdim=True)
    kept = squared > TINY**2
    return torch.where(kept, centred * torch.where(kept, squared, torch.ones_like(squared)).rsqrt(), torch.zeros_like(x))
