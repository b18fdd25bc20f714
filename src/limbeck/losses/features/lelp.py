"""Learning embedding linear projections: pseudo-subclasses for few classes (Loo et al., 2024)."""

from copy import deepcopy
from typing import final

import torch
from torch import Tensor, nn

from limbeck.align.projectors import fitting, pointwise
from limbeck.align.taps import PENULTIMATE, features_of, with_classifier
from limbeck.core.checks import positive, whole
from limbeck.core.errors import ShapeError, UsageError
from limbeck.core.outputs import Views
from limbeck.core.term import Scene, teacher_of
from limbeck.functional.divergences import full_precision, log_softmax, softened
from limbeck.functional.similarity import products
from limbeck.losses.features.term import FeatureTerm
from limbeck.students.subclasses import SubclassSum


@final
class LELP(FeatureTerm):
    """T^2 times the cross-entropy of a head over pseudo-subclasses with p_c r_ck, in nats, per sample.

    p is the teacher's softmax at T. r_c splits class c by where the teacher's embedding lies along S directions: softmax over k
    of U_c[k] . (h - mean_c) / (beta std_c). The directions are the principal ones of the class's embeddings, outside of what the
    teacher's classifier sees, turned at random so that each carries about the same variance. The student's head has S outputs
    per class; the net that is kept ends in this head and sums the probabilities of each class's subclasses, and the student's
    own classifier is left behind.

    Args:
        subclasses: S, per class, at least 1; None for 10 with two classes, else the larger of 2 and 20 / classes, and no more
            than the data allow.
        T: Temperature, > 0.
        beta: Width of the split, > 0, in standard deviations of the class's projections.

    Shapes: embeddings [B, D] under both classifiers, teacher logits [B, C] -> [B].

    Raises:
        ShapeError: The embeddings are no vectors, or the teacher has no linear classifier on them.
        UsageError: An argument is out of range, the data allow fewer subclasses than asked for, or there is no teacher.

    Reference: Loo et al., 2024, arXiv:2409.20449. Differs from the paper: the form of r is reconstructed from descriptions, and
    so are the defaults of S, T and beta, which the paper finds by search.

    >>> LELP()
    LELP(T=2, beta=1)
    """

    needs = frozenset({"teacher", "targets", "student_features", "teacher_features"})
    builds = True
    deploys = True
    directions: Tensor
    centres: Tensor
    widths: Tensor
    says = ("T", "beta")

    def __init__(self, subclasses: int | None = None, *, T: float = 2.0, beta: float = 1.0) -> None:
        super().__init__(PENULTIMATE, PENULTIMATE)
        self.subclasses = None if subclasses is None else whole(subclasses, "LELP: subclasses")
        self.T = positive(T, "LELP: T")
        self.beta = positive(beta, "LELP: beta")
        self.head: nn.Module

    def build(self, scene: Scene) -> None:
        """Go over the training samples once for every class's directions, and make the head.

        Raises:
            UsageError: There are too few samples of a class, or dimensions, for so many subclasses.
        """
        student, teacher = self.embeddings(scene.views)
        weight = fitting(scene.classifier, teacher, "LELP").weight.double()
        taught = [(batch.index, features_of(answer, PENULTIMATE, "LELP")[0].double()) for batch, answer in scene.taught()]
        labels = scene.labels.to(teacher.device)[torch.cat([index for index, _ in taught])]
        embeddings = torch.cat([part for _, part in taught])
        fewest = int(labels.bincount(minlength=scene.classes).min())
        most = max(1, min(fewest - 1, int(torch.linalg.matrix_rank(unseen(weight)))))
        wanted = self.subclasses or (10 if scene.classes == 2 else max(2, 20 // scene.classes))
        if self.subclasses is not None and wanted > most:
            raise UsageError(
                f"LELP: {wanted} subclasses were asked for, but the smallest class ({fewest} samples) and the teacher's "
                f"embedding allow {most}; ask for fewer."
            )
        count = min(wanted, most)
        turned = torch.linalg.qr(torch.randn(count, count, dtype=embeddings.dtype)).Q.to(embeddings.device)
        found = [class_directions(embeddings[labels == c], weight, turned) for c in range(scene.classes)]
        for name, parts in zip(("directions", "centres", "widths"), zip(*found, strict=True), strict=True):
            self.register_buffer(name, torch.stack(parts).to(teacher))
        self.head = pointwise(student, scene.classes * count)

    def embeddings(self, views: Views) -> tuple[Tensor, Tensor]:
        """What goes into both classifiers.

        Raises:
            ShapeError: It is no vector per sample.
        """
        student, teacher = self.stage(views)
        if student.dim() != 2 or teacher.dim() != 2:
            raise ShapeError(
                f"LELP: embeddings must be [B, D] on both sides, got {list(student.shape)} and {list(teacher.shape)}; use KD."
            )
        return student, teacher

    def forward(self, views: Views) -> Tensor:
        """One value per sample, [B]."""
        student, teacher = self.embeddings(views)
        logits = teacher_of(views, "LELP").logits
        target = log_target(logits, teacher, self.directions, self.centres, self.beta * self.widths, self.T)
        return softened(cross_entropy_of, full_precision(self.head(student)), self.T * target, self.T)

    def answer(self, views: Views) -> Tensor:
        """The head's logits, summed up over the subclasses."""
        (own,) = features_of(views.student, PENULTIMATE, "LELP")
        logits: Tensor = SubclassSum(self.directions.shape[1])(self.head(own))
        return logits

    def deploy(self, student: nn.Module) -> nn.Module:
        """A copy of the student with the head, and the sum over subclasses, in the place of its classifier."""
        return with_classifier(student, nn.Sequential(deepcopy(self.head), SubclassSum(self.directions.shape[1])))


def unseen(weight: Tensor) -> Tensor:
    """The projection onto what a classifier [C, D] does not see, I - pinv(W) W; all of it where nothing would be left."""
    identity = torch.eye(weight.shape[1], dtype=weight.dtype, device=weight.device)
    left = identity - torch.linalg.pinv(weight) @ weight
    return left if int(torch.linalg.matrix_rank(weight)) < weight.shape[1] else identity


def class_directions(embeddings: Tensor, weight: Tensor, turned: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Q V of a class's embeddings [N, D]: V its first principal directions outside of the classifier [C, D], Q given, [S, S].

    Each direction is signed so that its largest entry in size is positive.

    Shapes: -> directions [S, D], centre [D], width [], the standard deviation of all projections together (1 where it is 0).
    """
    hidden = embeddings @ unseen(weight)
    centre = hidden.mean(0) if len(hidden) else hidden.new_zeros(hidden.shape[1])
    principal = torch.linalg.svd(hidden - centre, full_matrices=True).Vh[: len(turned)]
    signs = principal.gather(1, principal.abs().argmax(1, keepdim=True)).sign()
    directions = turned @ (signs * principal)
    width = ((hidden - centre) @ directions.T).square().mean().sqrt() if len(hidden) else centre.new_zeros(())
    return directions, centre, torch.where(width > 0, width, 1)


def log_target(logits: Tensor, embeddings: Tensor, directions: Tensor, centres: Tensor, widths: Tensor, T: float) -> Tensor:
    """Log(p_c r_ck), class after class: [B, C], [B, D], [C, S, D], [C, D], [C] -> [B, C * S]."""
    along = products((embeddings.unsqueeze(1) - centres).unsqueeze(2), directions).squeeze(2) / widths.unsqueeze(1)
    return (log_softmax(logits, T).unsqueeze(2) + log_softmax(along)).flatten(1)


def cross_entropy_of(log_p: Tensor, log_q: Tensor) -> Tensor:
    """-sum p log q of log-probabilities [..., C] -> [...]."""
    return -(log_p.exp() * log_q).sum(-1)
