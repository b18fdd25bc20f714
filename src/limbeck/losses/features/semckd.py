"""Cross-layer distillation with semantic calibration (Chen et al., 2021)."""

from typing import final

import torch
from torch import Tensor, nn

from limbeck.align.projectors import channels, normalised
from limbeck.align.taps import features_of
from limbeck.core.checks import whole
from limbeck.core.outputs import Outputs, Views
from limbeck.core.term import Scene, teacher_of
from limbeck.functional.divergences import full_precision
from limbeck.functional.pooling import element_mean, pooled, same_size
from limbeck.functional.similarity import products, unit
from limbeck.losses.features.term import FeatureTerm, same_kind


@final
class SemCKD(FeatureTerm):
    """Mean over student stages of sum over teacher stages of a_kl |project(f_s,k) - f_t,l|^2 (a mean over elements), per sample.

    The shares a_kl are learnt attention: softmax over l of <query_k, key_l>, unit vectors that small trained nets read off the
    pooled features. Every student stage is thus compared with the teacher stages that suit the sample. The numbers of stages
    may differ.

    Args:
        dim: Size of queries and keys, at least 1.
        student: Taps of the student.
        teacher: Taps of the teacher.

    Shapes: features [B, D] or [B, C, H, W], of the same kind on both sides -> [B]. The larger map of a pair is average-pooled to
    the smaller.

    Raises:
        ShapeError: The features are of another kind.
        UsageError: dim is not above 0, there is no teacher, or no such feature.

    Reference: Chen et al., 2021, arXiv:2012.03236, sec. 3.2. Differs from the paper: queries and keys are read off a sample's own
    pooled features, not off its row of the batch's similarity matrix, whose size fixes the batch for good; their size and the
    projectors (1x1, 3x3, 1x1 convolutions, as in its code) are reconstructed.

    >>> SemCKD()
    SemCKD(dim=128)
    """

    builds = True
    coupled = True
    says = ("dim",)

    def __init__(self, dim: int = 128, *, student: str = "layer?", teacher: str = "layer?") -> None:
        super().__init__(student, teacher)
        self.dim = whole(dim, "SemCKD: dim")
        self.queries, self.keys = nn.ModuleList(), nn.ModuleList()
        self.projectors = nn.ModuleList()

    def sides(self, views: Views) -> tuple[list[Tensor], list[Tensor]]:
        """The features of either side, in at least float32."""

        def of(outputs: Outputs, tap: str) -> list[Tensor]:
            return [full_precision(part) for part in features_of(outputs, tap, "SemCKD")]

        return of(views.student, self.student), of(teacher_of(views, "SemCKD"), self.teacher)

    def build(self, scene: Scene) -> None:
        """Make queries, keys, and a projector for every pair of stages."""
        students, teachers = self.sides(scene.views)
        for side, layers in ((students, self.queries), (teachers, self.keys)):
            layers.extend(self.embedding(pooled(part, None, "SemCKD")) for part in side)
        for student in students:
            row = nn.ModuleList()
            for teacher in teachers:
                same_kind(student, teacher, "SemCKD")
                row.append(projector(student, channels(teacher)))
            self.projectors.append(row)

    def embedding(self, vectors: Tensor) -> nn.Module:
        """A small net from pooled features to queries or keys."""
        width = vectors.shape[1]
        return nn.Sequential(nn.Linear(width, self.dim), nn.ReLU(), nn.Linear(self.dim, self.dim)).to(vectors)

    def shares(self, students: list[Tensor], teachers: list[Tensor]) -> Tensor:
        """Whom every student stage attends to, [B, student stages, teacher stages]; sums over the last are 1."""
        queries, keys = (
            torch.stack(
                [unit(full_precision(net(pooled(part, None, "SemCKD")))) for net, part in zip(nets, parts, strict=True)], 1
            )
            for nets, parts in ((self.queries, students), (self.keys, teachers))
        )
        return products(queries, keys).softmax(-1)

    def forward(self, views: Views) -> Tensor:
        """One value per sample, [B]."""
        students, teachers = self.sides(views)
        rows = []
        for student, nets in zip(students, self.projectors, strict=True):
            assert isinstance(nets, nn.ModuleList)
            rows.append(torch.stack([gap(net, student, other) for net, other in zip(nets, teachers, strict=True)], 1))
        return (self.shares(students, teachers) * torch.stack(rows, 1)).sum(2).mean(1)


def gap(net: nn.Module, student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of the projected student and the teacher, the larger map pooled first, [B]."""
    if student.dim() == 4:
        student, teacher = same_size(student, teacher)
    return element_mean((full_precision(net(student)) - teacher).square(), None)


def projector(features: Tensor, outputs: int) -> nn.Module:
    """1x1, 3x3 and 1x1 convolutions with normalisation and ReLU between, twice as wide inside; for vectors two linear layers."""
    inner = 2 * outputs
    layers: list[nn.Module] = [normalised(features, inner, "SemCKD")]
    if features.dim() == 4:
        layers += [
            nn.Conv2d(inner, inner, 3, padding=1, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU(),
            nn.Conv2d(inner, outputs, 1),
        ]
    else:
        layers.append(nn.Linear(inner, outputs))
    return nn.Sequential(*layers).to(features)
