"""Token-level relationship graphs (Zhang et al., 2023)."""

import math
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limbeck.align.projectors import pointwise
from limbeck.core.checks import not_negative, positive, whole
from limbeck.core.errors import ShapeError, UsageError
from limbeck.core.outputs import Views
from limbeck.core.term import Moment, Scene
from limbeck.functional.divergences import full_precision
from limbeck.functional.pooling import same_size
from limbeck.functional.ramps import cosine
from limbeck.functional.similarity import products, unit
from limbeck.losses.features.term import FeatureTerm


@final
class TRG(FeatureTerm):
    """inner * L_inner + local * L_local + across * L_global: relations among tokens, within and between the images of a batch.

    L_inner compares, image by image, the softmax of the tokens' scaled inner products (mean squared difference). L_local and
    L_global look at the same tokens of both sides, drawn from the whole batch: KL(student || teacher) between the softmaxed rows
    of their k-nearest-neighbour graphs with Gaussian weights, and the InfoNCE loss of every projected student token with its own
    teacher token as the positive. Both are means over the drawn tokens, of which each image has its share.

    Args:
        inner: Weight of L_inner, >= 0.
        local: Weight of L_local, >= 0.
        across: Weight of L_global, >= 0.
        tokens: Most tokens that are drawn, at least 1.
        k: Neighbours, at least 1.
        sigma: Of the kernel exp(-d^2 / (2 sigma)), > 0; None for each side's own mean squared distance to its neighbours.
        tau: Temperatures of L_global at the start and at the end, > 0, with a cosine between; the last where no moment is told.
        student: The student's tap.
        teacher: The teacher's tap.

    Shapes: maps [B, C, H, W] (places are tokens; the larger map is average-pooled to the smaller), or tokens [B, L, D] with
    batch.mask [B, L], on both sides -> [B].

    Raises:
        ShapeError: The features are of another kind, or the tokens differ in number.
        UsageError: An argument is out of range, there is no teacher, or no such feature.

    Reference: Zhang et al., 2023, arXiv:2306.12442. Differs from the paper: its settings were not at hand; tokens, k, sigma, tau,
    equal weights and means instead of sums are reconstructed. The logit part is a sum: `CE() + KD() + TRG()`.

    >>> TRG()
    TRG(inner=1, local=1, across=1, tokens=512, k=8)
    """

    builds = True
    coupled = True
    compiles = False  # how many tokens are compared depends on the batch
    says = ("inner", "local", "across", "tokens", "k")

    def __init__(
        self,
        inner: float = 1.0,
        local: float = 1.0,
        *,
        across: float = 1.0,
        tokens: int = 512,
        k: int = 8,
        sigma: float | None = None,
        tau: tuple[float, float] = (0.5, 0.1),
        student: str = "layer3",
        teacher: str = "layer3",
    ) -> None:
        super().__init__(student, teacher)
        self.inner, self.local = not_negative(inner, "TRG: inner"), not_negative(local, "TRG: local")
        self.across = not_negative(across, "TRG: across")
        self.tokens, self.k = whole(tokens, "TRG: tokens"), whole(k, "TRG: k")
        self.sigma = None if sigma is None else positive(sigma, "TRG: sigma")
        if len(tau) != 2:
            raise UsageError(f"TRG: tau must be two temperatures, at the start and at the end, got {tau!r}.")
        self.tau = (positive(tau[0], "TRG: tau"), positive(tau[1], "TRG: tau"))
        self._tau = self.tau[1]
        self.project: nn.Module

    def build(self, scene: Scene) -> None:
        """Make the projection to the teacher's width."""
        student, teacher = self.sides(scene.views)
        self.project = pointwise(student, teacher.shape[2])

    def at(self, moment: Moment) -> None:
        """Lower the temperature."""
        start, end = self.tau
        self._tau = start + (end - start) * cosine(moment.step, moment.steps)

    def sides(self, views: Views) -> tuple[Tensor, Tensor]:
        """The tokens of both sides, [B, N, D] each.

        Raises:
            ShapeError: The features have no tokens, or not as many on both sides.
        """
        student, teacher = self.stage(views)
        if student.dim() == teacher.dim() == 4:
            student, teacher = (part.flatten(2).transpose(1, 2) for part in same_size(student, teacher))
        if student.dim() != 3 or teacher.dim() != 3 or student.shape[:2] != teacher.shape[:2]:
            raise ShapeError(
                f"TRG: features must be maps, or equally many tokens [B, L, D] on both sides, got {list(student.shape)} and "
                f"{list(teacher.shape)}; tap others."
            )
        return student, teacher

    def forward(self, views: Views) -> Tensor:
        """Each image's share, [B]."""
        student, teacher = self.sides(views)
        mask = views.batch.mask
        counted = mask if mask is not None and mask.shape == student.shape[:2] else None
        value = self.inner * context_gap(student, teacher, counted)
        images, each = student.shape[:2]
        places = torch.arange(images * each, device=student.device) if counted is None else counted.flatten().nonzero().squeeze(1)
        if len(places) > self.tokens:
            places = places[torch.randperm(len(places))[: self.tokens].to(places.device)]
        own, other = student.flatten(0, 1)[places], teacher.flatten(0, 1)[places]
        per_token = self.local * graph_divergence(own, other, self.k, self.sigma)
        per_token = per_token + self.across * info_nce(full_precision(self.project(own)), other, self._tau)
        owner = places // each
        share = images / max(len(places), 1)
        return value + share * torch.zeros_like(value).index_add(0, owner, per_token)


def context_gap(student: Tensor, teacher: Tensor, counted: Tensor | None = None) -> Tensor:
    """Mean squared difference of softmax(F F^T / sqrt(D)) over the tokens that count, [B, N, D], bool [B, N] or all -> [B]."""

    def context(tokens: Tensor) -> Tensor:
        tokens = tokens if counted is None else tokens.where(counted.unsqueeze(2), 0)
        scores = products(tokens, tokens) / math.sqrt(tokens.shape[2])
        if counted is not None:
            scores = scores.masked_fill(~counted.unsqueeze(1), torch.finfo(scores.dtype).min)
        return scores.softmax(-1)

    squares = (context(student) - context(teacher)).square()
    if counted is None:
        return squares.mean((1, 2))
    pairs = counted.unsqueeze(1) & counted.unsqueeze(2)
    return squares.where(pairs, 0).sum((1, 2)) / pairs.sum((1, 2)).clamp(min=1)


def graph_divergence(student: Tensor, teacher: Tensor, k: int, sigma: float | None) -> Tensor:
    """KL(softmax of the student graph's row i || that of the teacher's) for every token, [M, D], [M, E] -> [M].

    A row has some links and else zeros, each of which adds exp(0) = 1 to the softmax's sum: what is summed up are the links.
    """
    (at, own), (other_at, other) = links(student, k, sigma), links(teacher, k, sigma)

    def by_row(places: Tensor, values: Tensor) -> Tensor:
        return values.new_zeros(len(student)).index_add(0, places.flatten(), values.flatten())

    total, other_total = len(student) + by_row(at, own.expm1()), len(teacher) + by_row(other_at, other.expm1())
    same = other_at.unsqueeze(2) == at.unsqueeze(1)
    there = (same * own.unsqueeze(1)).sum(2)  # the student's weights where the teacher has its links, else 0
    gap = by_row(at, own.exp() * own) - by_row(other_at, there.exp() * other)
    return gap / total + (other_total / total).log()


def links(tokens: Tensor, k: int, sigma: float | None) -> tuple[Tensor, Tensor]:
    """Each token's k nearest neighbours i of j, and exp(-|x_i - x_j|^2 / (2 sigma)) for them: [M, D] -> [M, k] twice.

    Who is a neighbour carries no gradient.
    """
    centred = tokens - tokens.mean(0)
    lengths = centred.square().sum(1)
    with torch.autocast(tokens.device.type, enabled=False):
        less = torch.addmm(lengths, centred, centred.T, alpha=-2)  # |x_j - x_i|^2 - |x_j|^2, in the same order along row j
    less.detach().fill_diagonal_(torch.inf)  # nobody is a neighbour of itself
    nearest = less.topk(min(k, len(tokens) - 1), dim=1, largest=False).indices
    near = F.relu(less.gather(1, nearest) + lengths.unsqueeze(1))  # rounding can leave one below 0
    if sigma is not None:
        return nearest, (-near / (2 * sigma)).exp()
    mean = near.sum() / max(near.numel(), 1)
    return nearest, (-near / (2 * torch.where(mean > 0, mean, 1))).exp()


def info_nce(student: Tensor, teacher: Tensor, tau: float) -> Tensor:
    """-log softmax_j(cos(student_i, teacher_j) / tau) at j = i, [M, D] -> [M]."""
    own = torch.arange(len(student), device=student.device)
    return F.cross_entropy(products(unit(student) / tau, unit(teacher)), own, reduction="none")
