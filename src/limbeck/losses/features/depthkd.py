"""Distilled dense regression, as for depth maps (Hu et al., 2021)."""

from typing import final

from torch import Tensor

from limbeck.align.taps import features_of
from limbeck.core.checks import not_negative
from limbeck.core.errors import ShapeError, UsageError
from limbeck.core.outputs import Views
from limbeck.functional.dense import gradient_gap, normal_gap, value_gap
from limbeck.functional.divergences import full_precision
from limbeck.functional.pooling import maps_only
from limbeck.losses.features.term import FeatureTerm


@final
class DepthKD(FeatureTerm):
    """Mean log(1 + 2 e) of the error e, plus that of its slopes, plus 1 - cosine of the surface normals, per sample.

    Compares a regressed map of the student with the teacher's, or with the truth that travels with the samples: pixels whose
    truth is not above 0 do not count. The paper's sum on labelled samples is `DepthKD() * 0.9 + DepthKD(truth="depth") * 0.1`.

    Args:
        truth: Column of batch.meta, [B, H, W] or [B, 1, H, W], to compare with; None for the teacher's map.
        slopes: Weight of the slopes, >= 0.
        normals: Weight of the normals, >= 0.
        student: The student's tap: the module that gives its map.
        teacher: The teacher's tap.

    Shapes: maps [B, 1, H, W] on both sides, equally large -> [B]. A sample without any counted pixel gives 0.

    Raises:
        ShapeError: The maps have several channels or different sizes.
        UsageError: A weight is below 0, there is no such column, no teacher, or no such feature.

    Reference: Hu, Fan, Jiang et al., 2021, arXiv:2105.06143. Differs from the paper: its training code is not public; the loss is
    that of the authors' earlier work, with weights reconstructed, shifted by constants so that its least value is 0: log(1 + 2 e)
    stands for log(e + 1/2). Slopes by differences of neighbours.

    >>> DepthKD()
    DepthKD(slopes=1, normals=1)
    """

    says = ("slopes", "normals")

    def __init__(
        self,
        truth: str | None = None,
        *,
        slopes: float = 1.0,
        normals: float = 1.0,
        student: str = "depth",
        teacher: str = "depth",
    ) -> None:
        super().__init__(student, teacher)
        self.truth = truth
        self.slopes = not_negative(slopes, "DepthKD: slopes")
        self.normals = not_negative(normals, "DepthKD: normals")
        if truth is not None:
            self.needs = frozenset({"student_features"})

    @property
    def teacher_taps(self) -> tuple[str, ...]:
        """The teacher's tap; none where the truth is compared with."""
        return () if self.truth is not None else (self.teacher,)

    def both(self, views: Views) -> tuple[Tensor, Tensor]:
        """The student's map and what it is compared with.

        Raises:
            UsageError: The samples carry no such truth.
        """
        if self.truth is None:
            return self.stage(views)
        if self.truth not in views.batch.meta:
            raise UsageError(f"DepthKD: samples carry no column '{self.truth}', only {', '.join(views.batch.meta) or 'none'}.")
        student = full_precision(features_of(views.student, self.student, "DepthKD")[0])
        truth = views.batch.meta[self.truth]
        return student, full_precision(truth if truth.dim() == 4 else truth.unsqueeze(1))

    def forward(self, views: Views) -> Tensor:
        """One value per sample, [B].

        Raises:
            ShapeError: The maps do not fit each other.
        """
        student, other = (maps_only(part, "DepthKD") for part in self.both(views))
        if student.shape != other.shape or student.shape[1] != 1:
            raise ShapeError(
                f"DepthKD: maps must be [B, 1, H, W] and equally large, got {list(student.shape)} and {list(other.shape)}; "
                "tap the modules that give the regressed maps."
            )
        made, wanted = student.squeeze(1), other.squeeze(1)
        valid = wanted > 0 if self.truth is not None else wanted.isfinite()
        value = value_gap(made, wanted, valid)
        value = value + self.slopes * gradient_gap(made, wanted, valid)
        return value + self.normals * normal_gap(made, wanted, valid)
