"""A ratio of teacher to labels for every sample, learned from the geometry of three answers (Hu et al., 2024)."""

from collections.abc import Mapping
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from limbeck.core.checks import positive
from limbeck.core.outputs import Views
from limbeck.core.term import Scene, Term
from limbeck.functional.divergences import cross_entropy, kd_divergence, log_softmax
from limbeck.losses.sides import both_logits, fitting_labels, samples_only


@final
class TGeoKD(Term):
    """alpha T^2 KL(softmax(teacher / T) || softmax(student / T)) + (1 - alpha) CE(y, student), alpha in (0, 1) per sample.

    alpha = sigmoid(controller(features)), a net of three layers that sees S, T, G (student's and teacher's probabilities, the
    label), the class's mean M of the teacher's probabilities over the training set, and the squares of M - S, G - S, T - S,
    T - G, M - G. It is a constant for the student, 1/2 at first, and learns in the step `Bilevel()` only: with any other step it
    stays 1/2.

    Args:
        T: Temperature of the soft part, > 0.

    Shapes: logits [B, C] -> [B].

    Raises:
        ShapeError: Student and teacher differ in their classes, or the logits are those of tokens.
        UsageError: T is not above 0, or teacher or labels are missing.

    Reference: Hu et al., 2024, arXiv:2312.15112. Differs from the paper: the released code gives its controller no gradient and
    takes M over a batch; here it learns as the paper says, and M is that of the training set.

    >>> TGeoKD()
    TGeoKD(T=4)
    """

    needs = frozenset({"teacher", "targets"})
    builds = True
    means: Tensor
    says = ("T",)

    def __init__(self, T: float = 4.0) -> None:
        super().__init__()
        self.T = positive(T, "TGeoKD: T")

    def build(self, scene: Scene) -> None:
        """Make the controller, and go once over the training set for M: uniform for a class without samples."""
        samples_only(scene.views.student.logits, "TGeoKD")
        classes = scene.classes
        last = nn.Linear(16, 1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        layers = nn.Linear(9 * classes, 32), nn.LeakyReLU(), nn.Linear(32, 16), nn.LeakyReLU(), last
        self.controller = nn.Sequential(*layers).requires_grad_(False)  # learns by the step's optimiser, not the student's
        total, count = torch.zeros(classes, classes), torch.zeros(classes, 1)
        for batch, answer in scene.taught():
            labels = F.one_hot(fitting_labels(Views(answer, answer, batch), "TGeoKD"), classes).float()
            total = total.to(labels) + labels.T @ log_softmax(answer.logits).exp().to(labels)
            count = count.to(labels) + labels.sum(0).unsqueeze(1)
        self.register_buffer("means", torch.where(count > 0, total / count.clamp(min=1), 1 / classes))

    def parts(self, views: Views) -> tuple[Tensor, Tensor]:
        """The soft part, T^2 KL, and the hard part, CE; [B] each."""
        student, teacher = both_logits(views, "TGeoKD")
        return kd_divergence(student, teacher, self.T), cross_entropy(student, fitting_labels(views, "TGeoKD"))

    def features(self, views: Views) -> Tensor:
        """What the controller sees, [B, 9 C]; no gradient passes."""
        logits, labels = both_logits(views, "TGeoKD"), fitting_labels(views, "TGeoKD")
        samples_only(logits[0], "TGeoKD")
        student, teacher = (log_softmax(own.detach()).exp() for own in logits)
        label, mean = F.one_hot(labels, student.shape[1]).to(student), self.means[labels].to(student)
        edges = (mean - student, label - student, teacher - student, teacher - label, mean - label)
        return torch.cat([student, teacher, label, mean, *(edge.square() for edge in edges)], 1)

    def ratio(self, features: Tensor, parameters: Mapping[str, Tensor] | None = None) -> Tensor:
        """alpha, [B], with these parameters of the controller or its own."""
        found: Tensor = functional_call(self.controller, dict(parameters or {}), (features.to(self.means.dtype),))
        return found.squeeze(1).sigmoid()

    def mixed(self, views: Views, alpha: Tensor) -> Tensor:
        """The loss with these ratios, [B]."""
        soft, hard = self.parts(views)
        alpha = alpha.to(soft.dtype)
        return alpha * soft + (1 - alpha) * hard

    def forward(self, views: Views) -> Tensor:
        """One value per sample, [B]."""
        return self.mixed(views, self.ratio(self.features(views)))
