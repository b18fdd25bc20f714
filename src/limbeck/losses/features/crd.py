"""Contrastive representation distillation (Tian et al., 2020)."""

import math
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limbeck.align.projectors import pointwise
from limbeck.align.taps import PENULTIMATE
from limbeck.core.checks import fraction, positive, whole
from limbeck.core.outputs import Views
from limbeck.core.term import Scene
from limbeck.functional.divergences import full_precision
from limbeck.functional.similarity import products, unit
from limbeck.losses.features.term import FeatureTerm


@final
class CRD(FeatureTerm):
    """Tells a sample's partner on the other side from samples of other classes, by noise-contrastive estimation; sides added.

    Trained linear layers embed both features on the unit sphere. Two memory banks hold every training sample's embedding, one
    per side, as moving averages that `remember` updates after each step. With c = m / n, the score x = exp(<v, bank> / T) / Z of
    the other side's entry, m negatives and n training samples, a side costs -log(x_0 / (x_0 + c)) - sum log(c / (x + c)).

    Args:
        dim: Size of the embeddings, at least 1.
        negatives: How many samples of other classes, at least 1; all of them where there are fewer.
        T: Temperature, > 0.
        momentum: What a bank's entry keeps at an update, in [0, 1].
        student: The student's tap.
        teacher: The teacher's tap.

    Shapes: features [B, D], [B, C, H, W] or [B, L, D] (pooled) on each side; batch.index names the samples -> [B].

    Raises:
        ShapeError: The features are of another kind, or a tap stands for several modules.
        UsageError: An argument is out of range, there is no teacher, or no such feature.

    Reference: Tian, Krishnan, Isola, 2020, arXiv:1910.10699, sec. 3.1, and its code ("exact" mode, coefficient 0.8). Differs from
    the paper: the negatives of a step come from one random order of the training set, the first of other classes for every
    sample, so each has the paper's distribution but samples share theirs; Z is measured when the term is built, on a few
    samples against the whole bank (the code: on the first batch), so that the loss never changes by looking.

    >>> CRD()
    CRD(dim=128, negatives=16384, T=0.07, momentum=0.5)
    """

    needs = frozenset({"teacher", "targets", "student_features", "teacher_features"})
    builds = True
    compiles = False  # how many candidates are drawn depends on the labels
    remembers = True
    student_bank: Tensor
    teacher_bank: Tensor
    log_z: Tensor
    rows: Tensor
    labels: Tensor
    says = ("dim", "negatives", "T", "momentum")

    def __init__(
        self,
        dim: int = 128,
        negatives: int = 16384,
        *,
        T: float = 0.07,
        momentum: float = 0.5,
        student: str = PENULTIMATE,
        teacher: str = PENULTIMATE,
    ) -> None:
        super().__init__(student, teacher)
        self.dim = whole(dim, "CRD: dim")
        self.negatives = whole(negatives, "CRD: negatives")
        self.T = positive(T, "CRD: T")
        self.momentum = fraction(momentum, "CRD: momentum")
        self.embed_student: nn.Module
        self.embed_teacher: nn.Module

    def build(self, scene: Scene) -> None:
        """Make the embeddings and the banks, and measure Z."""
        student, teacher = self.vectors(scene.views)
        self.embed_student, self.embed_teacher = pointwise(student, self.dim), pointwise(teacher, self.dim)
        labels = torch.full_like(scene.labels, -1)
        labels[scene.rows] = scene.labels[scene.rows]
        self.register_buffer("rows", scene.rows.to(student.device))
        self.register_buffer("labels", labels.to(student.device))
        bound = 1 / math.sqrt(self.dim / 3)
        for name, like in (("student_bank", student), ("teacher_bank", teacher)):
            self.register_buffer(name, unit(like.new_empty(len(labels), self.dim).uniform_(-bound, bound)))
        with torch.no_grad():
            scores = self.scores(scene.views, self.rows)
        self.register_buffer("log_z", torch.stack([side.flatten().logsumexp(0) - math.log(len(side)) for side in scores]))

    def embeddings(self, views: Views) -> tuple[Tensor, Tensor]:
        """Both sides' directions, [B, dim] each."""
        student, teacher = self.vectors(views)
        return unit(full_precision(self.embed_student(student))), unit(full_precision(self.embed_teacher(teacher)))

    def scores(self, views: Views, identities: Tensor) -> tuple[Tensor, Tensor]:
        """Logarithms of Z times the scores: the student's against the teacher's bank, and the other way round, [B, M] each."""
        student, teacher = self.embeddings(views)
        return self.against(student, self.teacher_bank[identities]), self.against(teacher, self.student_bank[identities])

    def against(self, directions: Tensor, entries: Tensor) -> Tensor:
        """Inner products by T, [B, dim], [M, dim] -> [B, M]."""
        return products(directions / self.T, entries)

    def forward(self, views: Views) -> Tensor:
        """One value per sample, [B]."""
        index = views.batch.index
        drawn, chosen = self.draw(index)
        counted = chosen.sum(1).to(self.log_z.dtype)
        log_c = counted.log() - math.log(len(self.rows))
        embedded = self.embeddings(views)
        found = []
        for own, bank, log_z in zip(embedded, (self.teacher_bank, self.student_bank), self.log_z, strict=True):
            positive_score = (own * bank[index]).sum(1) / self.T
            # Z multiplies c: the same as dividing every x by it.
            found.append(nce(positive_score, self.against(own, bank[drawn]), chosen, log_c + log_z))
        return found[0] + found[1]

    def draw(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Identities of candidates [M], and which of them are negatives of which sample, [B, M] bool."""
        known = self.labels[self.rows]
        largest = int(known.bincount().max())
        order = torch.randperm(len(self.rows))[: self.negatives + largest]  # enough of other classes for everyone
        drawn = self.rows[order.to(self.rows.device)]
        other = self.labels[drawn].unsqueeze(0) != self.labels[index].unsqueeze(1)
        return drawn, other & (other.cumsum(1) <= self.negatives)

    def remember(self, views: Views) -> None:
        """Move the banks' entries of these samples towards their embeddings."""
        with torch.no_grad():
            index = views.batch.index
            for bank, fresh in zip((self.student_bank, self.teacher_bank), self.embeddings(views), strict=True):
                bank[index] = unit(self.momentum * bank[index] + (1 - self.momentum) * fresh.to(bank))


def nce(positive_score: Tensor, negative_scores: Tensor, chosen: Tensor, log_c: Tensor) -> Tensor:
    """-log(x_0 / (x_0 + c)) - sum over the chosen of log(c / (x + c)), of log-scores [B], [B, M] and log c [B] -> [B]."""
    noise = F.logsigmoid(log_c.unsqueeze(1) - negative_scores)
    return -F.logsigmoid(positive_score - log_c) - noise.where(chosen, 0).sum(1)
