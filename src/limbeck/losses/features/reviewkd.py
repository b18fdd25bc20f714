"""Knowledge review (Chen et al., 2021)."""

from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limbeck.align.projectors import Pointwise, mixed
from limbeck.align.taps import PENULTIMATE, features_of
from limbeck.core.checks import not_negative
from limbeck.core.errors import ShapeError
from limbeck.core.outputs import Outputs, Views
from limbeck.core.term import Moment, Scene, teacher_of
from limbeck.functional.divergences import full_precision
from limbeck.functional.pooling import maps_only
from limbeck.functional.ramps import linear
from limbeck.losses.features.term import FeatureTerm

WIDEST = 512
"""Most channels of what is handed from stage to stage."""


@final
class ReviewKD(FeatureTerm):
    """min(epoch / warm_up, 1) times the hierarchical context loss of every stage against the student's deeper stages, per sample.

    From the deepest stage to the shallowest, the student's feature is fused with what came from the deeper ones by two trained
    attention maps, and compared with the teacher's feature of that stage: in full, and average-pooled to 4 x 4, 2 x 2 and 1 x 1.
    The last stage is the vector under the classifier. A term that is told no moment is at full strength.

    Args:
        warm_up: Epochs over which the term grows linearly from 0, >= 0.
        student: Taps of the student, one map per stage.
        teacher: Taps of the teacher, as many.

    Shapes: maps [B, C, H, W] per stage and vectors [B, D] at `penultimate`, on each side -> [B].

    Raises:
        ShapeError: The features are no maps, or the two sides have different numbers of them.
        UsageError: warm_up is below 0, there is no teacher, or no such feature.

    Reference: Chen, Liu, Zhao, Jia, 2021, arXiv:2104.09044, sec. 3. Differs from the paper: the teacher's stages are what the
    taps give, for our nets after the ReLU (the code takes them before it); the warm-up runs within epochs; convolutions start
    as torch's own do, which the normalisation behind them evens out.

    >>> ReviewKD()
    ReviewKD(warm_up=20)
    """

    builds = True
    coupled = True
    says = ("warm_up",)

    def __init__(self, warm_up: float = 20.0, *, student: str = "layer?", teacher: str = "layer?") -> None:
        super().__init__(student, teacher)
        self.warm_up = not_negative(warm_up, "ReviewKD: warm_up")
        self.fusions = nn.ModuleList()
        self._strength = 1.0

    @property
    def student_taps(self) -> tuple[str, ...]:
        """The stages, and the vector under the classifier."""
        return (self.student, PENULTIMATE)

    @property
    def teacher_taps(self) -> tuple[str, ...]:
        """The stages, and the vector under the classifier."""
        return (self.teacher, PENULTIMATE)

    def levels(self, outputs: Outputs, tap: str) -> list[Tensor]:
        """All maps from the deepest to the shallowest; the vector comes first, as a map of one place.

        Raises:
            ShapeError: A feature is of another kind.
        """
        (last,) = features_of(outputs, PENULTIMATE, "ReviewKD")
        if last.dim() != 2:
            raise ShapeError(f"ReviewKD: the classifier must stand on vectors [B, D], got {list(last.shape)}; use FitNet.")
        found = [part for part in features_of(outputs, tap, "ReviewKD") if part is not last]
        return [full_precision(last)[:, :, None, None], *(maps_only(part, "ReviewKD") for part in reversed(found))]

    def both(self, views: Views) -> list[tuple[Tensor, Tensor]]:
        """Student and teacher, level by level from the deepest.

        Raises:
            ShapeError: They have different numbers of levels.
        """
        student, teacher = self.levels(views.student, self.student), self.levels(teacher_of(views, "ReviewKD"), self.teacher)
        if len(student) != len(teacher):
            raise ShapeError(
                f"ReviewKD: student tap '{self.student}' gives {len(student) - 1} features and teacher tap '{self.teacher}' "
                f"{len(teacher) - 1}; name taps that give one of each for every stage."
            )
        return list(zip(student, teacher, strict=True))

    def build(self, scene: Scene) -> None:
        """Make a fusion for every level."""
        levels = self.both(scene.views)
        middle = min(WIDEST, levels[0][0].shape[1])
        for depth, (student, teacher) in enumerate(levels):
            self.fusions.append(Fusion(student.shape[1], middle, teacher.shape[1], fuses=depth > 0).to(student))

    def at(self, moment: Moment) -> None:
        """Warm up."""
        self._strength = linear(moment.epoch, self.warm_up)

    def forward(self, views: Views) -> Tensor:
        """One value per sample, [B]."""
        handed: Tensor | None = None
        found = []
        for fusion, (student, teacher) in zip(self.fusions, self.both(views), strict=True):
            made, handed = fusion(student, handed, teacher.shape[2:])
            found.append(hierarchical_context(full_precision(made), teacher))
        return self._strength * torch.stack(found).sum(0)


@final
class Fusion(nn.Module):
    """Attention-based fusion: x z_0 + y z_1, z two maps in (0, 1) made of both, then a 3x3 convolution to the teacher's width.

    Where the teacher's map has another size, the fused one takes it before the convolution, by its nearest places.

    Args:
        inputs: Channels of the student's map.
        middle: Channels of what is handed on.
        outputs: Channels of the teacher's map.
        fuses: Whether something deeper comes in.
    """

    def __init__(self, inputs: int, middle: int, outputs: int, *, fuses: bool) -> None:
        super().__init__()
        self.narrow = nn.Sequential(Pointwise(inputs, middle, bias=False), nn.BatchNorm2d(middle))
        self.attend = Pointwise(2 * middle, 2) if fuses else None
        self.out = nn.Sequential(nn.Conv2d(middle, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs))

    def shares(self, own: Tensor, deeper: Tensor) -> Tensor:
        """z_0 and z_1, [B, 2, H, W]: `attend` of both maps together, without putting them together.

        A convolution of single places is a sum over the maps, and enlarging by nearest places can wait until after it.
        """
        assert self.attend is not None
        first, second = self.attend.weight.flatten(1).chunk(2, 1)
        return (mixed(own, first, self.attend.bias) + F.interpolate(mixed(deeper, second), own.shape[2:])).sigmoid()

    def forward(self, features: Tensor, deeper: Tensor | None, size: torch.Size) -> tuple[Tensor, Tensor]:
        """The map to compare, of the teacher's height and width, and what is handed to the next shallower level."""
        own: Tensor = self.narrow(features)
        if self.attend is not None and deeper is not None:
            shares = self.shares(own, deeper)
            own = torch.addcmul(own * shares[:, :1], F.interpolate(deeper, own.shape[2:]), shares[:, 1:])
        own = own if own.shape[2:] == size else F.interpolate(own, size)
        return self.out(own), own


def hierarchical_context(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared differences of maps in full and pooled to 4, 2 and 1, where smaller; weights halve and sum to 1 -> [B]."""
    gap = student - teacher
    value, weight, total = gap.square().flatten(1).mean(1), 1.0, 1.0
    for size in (4, 2, 1):
        if size >= min(student.shape[2:]):
            continue
        weight /= 2
        total += weight
        pooled = F.adaptive_avg_pool2d(gap, size)  # pooling is linear
        value = value + weight * pooled.square().flatten(1).mean(1)
    return value / total
