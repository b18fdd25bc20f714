"""Knowledge distillation with the reused teacher classifier (Chen et al., 2022)."""

from copy import deepcopy
from typing import final

import torch
from torch import Tensor, nn

from limbeck.align.projectors import fitting
from limbeck.align.taps import PENULTIMATE, Tapped, features_of, with_classifier, with_module
from limbeck.core.checks import whole
from limbeck.core.errors import ShapeError, UsageError
from limbeck.core.outputs import Views
from limbeck.core.term import Scene, Term, teacher_of
from limbeck.functional.divergences import full_precision
from limbeck.functional.pooling import pooled, same_size
from limbeck.students.projector import Projector


@final
class SimKD(Term):
    """mean over the elements of (projector(f_student) - f_teacher)^2, per sample; inference ends in the teacher's classifier.

    The only loss of its paper. The net that is kept is the student up to the tap, the projector, and the teacher's frozen
    classifier; the student's own classifier learns nothing and is left behind.

    Args:
        tap: The student's feature: `penultimate`, the vectors under its classifier, or the name of the module that gives its
            last maps, as in the paper (`layer3` for the CIFAR ResNets). Between that module and the classifier the net may do
            nothing but average the map.
        teacher_tap: The same of the teacher; None for the same name.
        ratio: How much narrower than the teacher the projector is inside, >= 1.

    Shapes: vectors [B, D] or maps [B, C, H, W] on both sides -> [B]. The larger map is averaged down to the smaller.

    Raises:
        ShapeError: The features are neither, or the teacher has no linear classifier that takes them.
        UsageError: Something stands between the tap and the classifier.

    Reference: Chen, Mei, Zhang, Wang, Feng, Chen, 2022, arXiv:2203.14001. Differs from the paper: by default projects the
    averaged vectors, not the maps, which every net has.

    >>> SimKD(tap="layer3")
    SimKD(tap='layer3', teacher_tap='layer3', ratio=2)
    """

    needs = frozenset({"teacher", "student_features", "teacher_features"})
    coupled = True  # batch normalisation in the projector
    builds = True
    deploys = True
    says = ("tap", "teacher_tap", "ratio")

    def __init__(self, tap: str = PENULTIMATE, teacher_tap: str | None = None, *, ratio: int = 2) -> None:
        super().__init__()
        self.tap, self.teacher_tap = tap, tap if teacher_tap is None else teacher_tap
        self.ratio = whole(ratio, "SimKD: ratio")
        self.projector: Projector
        self.classifier: nn.Linear

    @property
    def student_taps(self) -> tuple[str, ...]:
        """The student's feature."""
        return (self.tap,)

    @property
    def teacher_taps(self) -> tuple[str, ...]:
        """The teacher's feature."""
        return (self.teacher_tap,)

    def build(self, scene: Scene) -> None:
        """Make the projector and take over the teacher's classifier.

        Raises:
            ShapeError: The features are neither vectors nor maps, or the teacher has no linear classifier that takes them.
            UsageError: The teacher's tap is not what is averaged into its classifier.
        """
        own, other = self._features(scene.views)
        if own.dim() != other.dim() or own.dim() not in (2, 4):
            raise ShapeError(
                f"SimKD: features must be vectors [B, D] or maps [B, C, H, W] on both sides, got {list(own.shape)} and "
                f"{list(other.shape)}; name other taps."
            )
        classifier = fitting(scene.classifier, full_precision(other), "SimKD")
        if self.teacher_tap != PENULTIMATE:
            _same_answer(
                classifier(pooled(other, None, "SimKD")), teacher_of(scene.views, "SimKD").logits, "teacher", self.teacher_tap
            )
        size = None if other.dim() == 2 else (other.shape[2], other.shape[3])
        self.projector = Projector(own, other.shape[1], self.ratio, size).to(full_precision(own).dtype)
        self.classifier = classifier
        self._few = scene.views.batch

    def aligned(self, views: Views) -> tuple[Tensor, Tensor]:
        """The projected feature of the student and the teacher's, of one size, in at least float32."""
        own, other = self._features(views)
        projected = self.projector(own.to(next(self.projector.parameters()).dtype))
        projected, other = full_precision(projected), full_precision(other)
        return same_size(projected, other) if other.dim() == 4 else (projected, other)

    def forward(self, views: Views) -> Tensor:
        """One value per sample, [B]."""
        projected, other = self.aligned(views)
        return (projected - other).square().flatten(1).mean(1)

    def answer(self, views: Views) -> Tensor:
        """What the teacher's classifier says of the student's projected feature."""
        own = features_of(views.student, self.tap, "SimKD")[-1]
        projected = self.projector(own.to(next(self.projector.parameters()).dtype))
        logits: Tensor = self.classifier(pooled(projected, None, "SimKD").to(self.classifier.weight.dtype))
        return logits

    def deploy(self, student: nn.Module) -> nn.Module:
        """A copy of the student with the projector after its tap and the teacher's classifier in the place of its own.

        Raises:
            UsageError: The student does more than average between the tap and the classifier.
        """
        projector, classifier = deepcopy(self.projector), deepcopy(self.classifier)
        if self.tap == PENULTIMATE:
            return with_classifier(student, nn.Sequential(projector, classifier))
        grafted = with_module(student, self.tap, nn.Sequential(deepcopy(student.get_submodule(self.tap)), projector))
        grafted = with_classifier(grafted, classifier)
        model, before = deepcopy(Tapped(student, (self.tap,))).cpu().eval(), self._few.to("cpu")
        with torch.no_grad():
            (own,) = features_of(model(before), self.tap, "SimKD")
            wanted = deepcopy(classifier).cpu()(pooled(deepcopy(projector).cpu().eval()(own), None, "SimKD"))
            try:
                found = Tapped(deepcopy(grafted).cpu().eval())(before).logits
            except RuntimeError:  # a layer between them that was made for the student's own width
                found = wanted + torch.nan
        _same_answer(wanted, found, "student", self.tap)
        return grafted

    def _features(self, views: Views) -> tuple[Tensor, Tensor]:
        """The feature of either side."""
        own = features_of(views.student, self.tap, "SimKD")[-1]
        return own, features_of(teacher_of(views, "SimKD"), self.teacher_tap, "SimKD")[-1]


def _same_answer(wanted: Tensor, found: Tensor, side: str, tap: str) -> None:
    """See that the net goes from the tap to its logits by an average and the classifier, and by nothing else.

    Raises:
        UsageError: It does not.
    """
    if not torch.allclose(wanted, found, rtol=1e-3, atol=1e-3):
        raise UsageError(
            f"SimKD: the {side} does more between '{tap}' and its classifier than average the map; "
            f"tap what is averaged, or use '{PENULTIMATE}'."
        )
