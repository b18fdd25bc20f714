"""Token-level relationship graphs (Zhang et al., 2023)."""

import math
from typing import final

import torch
from torch import Tensor, nn

from limbeck.align.projectors import pointwise
from limbeck.core.checks import not_negative, positive, whole
from limbeck.core.errors import ShapeError, UsageError
from limbeck.core.outputs import Views
from limbeck.core.term import Moment, Scene
from limbeck.functional.divergences import forward_kl, full_precision
from limbeck.functional.pooling import same_size
from limbeck.functional.ramps import cosine
from limbeck.functional.similarity import products, squared_distances, unit
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
        counted = torch.ones(student.shape[:2], dtype=torch.bool, device=student.device)
        counted = mask if mask is not None and mask.shape == counted.shape else counted
        value = self.inner * context_gap(student, teacher, counted)
        places = counted.flatten().nonzero().squeeze(1)
        if len(places) > self.tokens:
            places = places[torch.randperm(len(places))[: self.tokens].to(places.device)]
        own, other = student.flatten(0, 1)[places], teacher.flatten(0, 1)[places]
        per_token = self.local * graph_divergence(own, other, self.k, self.sigma)
        per_token = per_token + self.across * info_nce(full_precision(self.project(own)), other, self._tau)
        owner = places // counted.shape[1]
        share = len(counted) / max(len(places), 1)
        return value + share * torch.zeros_like(value).index_add(0, owner, per_token)


def context_gap(student: Tensor, teacher: Tensor, counted: Tensor) -> Tensor:
    """Mean squared difference of softmax(F F^T / sqrt(D)) over the tokens that count, [B, N, D], bool [B, N] -> [B]."""
    pairs = counted.unsqueeze(1) & counted.unsqueeze(2)

    def context(tokens: Tensor) -> Tensor:
        tokens = tokens.where(counted.unsqueeze(2), 0)
        scores = products(tokens, tokens) / math.sqrt(tokens.shape[2])
        return scores.masked_fill(~counted.unsqueeze(1), torch.finfo(scores.dtype).min).softmax(-1)

    squares = (context(student) - context(teacher)).square().where(pairs, 0)
    return squares.sum((1, 2)) / pairs.sum((1, 2)).clamp(min=1)


def graph_divergence(student: Tensor, teacher: Tensor, k: int, sigma: float | None) -> Tensor:
    """KL(softmax of the student graph's row i || that of the teacher's) for every token, [M, D], [M, E] -> [M]."""
    own, other = (neighbour_graph(tokens, k, sigma).log_softmax(1) for tokens in (student, teacher))
    return forward_kl(own, other)


def neighbour_graph(tokens: Tensor, k: int, sigma: float | None) -> Tensor:
    """exp(-|x_i - x_j|^2 / (2 sigma)) where i is one of the k nearest neighbours of j, else 0: [M, D] -> [M, M].

    Who is a neighbour carries no gradient.
    """
    squared = squared_distances(tokens)
    size = len(tokens)
    apart = squared.detach().clone()
    apart.fill_diagonal_(torch.inf)
    nearest = apart.topk(min(k, size - 1), dim=0, largest=False).indices
    linked = torch.zeros_like(squared, dtype=torch.bool).scatter(0, nearest, True)
    if sigma is not None:
        return (-squared / (2 * sigma)).exp().where(linked, 0)
    mean = squared.where(linked, 0).sum() / linked.sum().clamp(min=1)
    return (-squared / (2 * torch.where(mean > 0, mean, 1))).exp().where(linked, 0)


def info_nce(student: Tensor, teacher: Tensor, tau: float) -> Tensor:
    """-log softmax_j(cos(student_i, teacher_j) / tau) at j = i, [M, D] -> [M]."""
    return -(products(unit(student), unit(teacher)) / tau).log_softmax(1).diagonal()
