"""Regularised feature norm and direction, the added part of KD++ (Wang et al., 2023)."""

from typing import Literal, final, get_args

import torch
from torch import Tensor, nn

from limbeck.align.projectors import pointwise
from limbeck.align.taps import PENULTIMATE, features_of
from limbeck.core.checks import one_of
from limbeck.core.errors import ShapeError
from limbeck.core.outputs import Views
from limbeck.core.shown import arguments
from limbeck.core.term import Scene, targets_of
from limbeck.functional.divergences import full_precision
from limbeck.functional.pooling import pooled
from limbeck.functional.similarity import length, unit
from limbeck.losses.features.term import FeatureTerm

Adapter = Literal["norm", "linear"]


@final
class ND(FeatureTerm):
    """1 - <e_s, c_y> / max(|e_s|, |e_t|): the student's embedding is to lie along its class and be as long as the teacher's.

    c_y is the direction of the mean of the teacher's embeddings over the training samples of class y. A student shorter than the
    teacher is drawn along c_y; one that is longer is only turned.

    Args:
        adapter: Between different widths: `norm` is batch normalisation, dropout of one half and a linear layer (it couples the
            samples of a batch), `linear` the linear layer alone. Equal widths have none.
        student: The student's tap.
        teacher: The teacher's tap.

    Shapes: features [B, D], [B, C, H, W] or [B, L, D] (pooled) on each side, labels [B] -> [B], in [0, 2].

    Raises:
        ShapeError: The features are of another kind, labels are those of tokens, or a tap stands for several modules.
        UsageError: An argument is unknown, there is no teacher, no label, or no such feature.

    Reference: Wang et al., 2023, arXiv:2305.17007, sec. 3, and its code. Differs from the paper: class means in full precision
    (the code rounds them to four digits). KD++ is the sum `CE() + KD(T=4) + ND()`, without the code's warm-up of KD.

    >>> ND()
    ND()
    """

    needs = frozenset({"teacher", "targets", "student_features", "teacher_features"})
    builds = True
    coupled = True
    centres: Tensor

    def __init__(self, adapter: Adapter = "norm", *, student: str = PENULTIMATE, teacher: str = PENULTIMATE) -> None:
        super().__init__(student, teacher)
        self.kind = one_of(adapter, get_args(Adapter), "ND: adapter")
        self.adapter: nn.Module

    def build(self, scene: Scene) -> None:
        """Make the adapter, and go over the training samples once for the classes' directions."""
        student, teacher = self.vectors(scene.views)
        same = student.shape[1] == teacher.shape[1]
        before = [nn.BatchNorm1d(student.shape[1]), nn.Dropout(0.5)] if self.kind == "norm" and not same else []
        linear = [] if same else [pointwise(student, teacher.shape[1])]
        self.adapter = nn.Sequential(*before, *linear).to(student)
        self.coupled = bool(before)
        sums = teacher.new_zeros(scene.classes, teacher.shape[1])
        for batch, answer in scene.taught():
            (found,) = features_of(answer, self.teacher, "ND")
            sums = sums.index_add(0, scene.labels.to(batch.index)[batch.index], pooled(found, batch.mask, "ND").to(sums))
        self.register_buffer("centres", unit(sums))

    def forward(self, views: Views) -> Tensor:
        """One value per sample, [B].

        Raises:
            ShapeError: The labels are those of tokens.
        """
        student, teacher = self.vectors(views)
        targets = targets_of(views, "ND")
        if targets.dim() != 1:
            raise ShapeError(f"ND: labels must be [B], one per sample, got {list(targets.shape)}; use FitNet for tokens.")
        made = full_precision(self.adapter(student))
        longer = torch.maximum(length(made), length(teacher))
        return 1 - (made * self.centres[targets]).sum(1) / torch.where(longer > 0, longer, 1)

    def extra_repr(self) -> str:
        """The adapter, where it is not the default."""
        return arguments(self, adapter=self.kind)
