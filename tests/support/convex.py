"""Convex problems whose minimum is found to the last digit, so that influence can be held against real retraining."""

from dataclasses import dataclass
from functools import cache, cached_property

import torch
from torch import Tensor, nn

from limbeck.align.taps import Tapped
from limbeck.core.batch import Batch
from limbeck.influence.curvature.exact import Exact
from limbeck.influence.curvature.solver import Solver
from limbeck.influence.scores import score
from limbeck.influence.task import Distillation
from limbeck.losses.labels.ce import CE
from limbeck.losses.logits.kd import KD
from support.makers import normal, told_teacher


@dataclass(frozen=True)
class SoftmaxRegression:
    """alpha CE + (1 - alpha) KD of a linear model, plus l2 / 2 |theta|^2; some of the labels are flipped, the queries' are not.

    Gradient and Hessian are written out (kd-aif.md, 2), independent of the package, for many weightings at once.
    """

    count: int = 150
    flips: float = 0.15
    alpha: float = 0.5
    T: float = 3.0
    l2: float = 0.01
    classes: int = 3
    features: int = 5
    seed: int = 0

    @cached_property
    def truth(self) -> Tensor:
        """How inputs [n, d] give labels: a linear teacher's logits and a label drawn near its choice."""
        return 1.5 * normal(self.features, self.classes, seed=self.seed + 1)

    def drawn(self, count: int, seed: int) -> tuple[Tensor, Tensor]:
        inputs = normal(count, self.features, seed=seed)
        inputs[:, -1] = 1  # the bias
        noisy = inputs @ self.truth + 0.3 * normal(count, self.classes, seed=seed + 1)
        return inputs, noisy.argmax(1)

    @cached_property
    def flipped(self) -> Tensor:
        order = torch.randperm(self.count, generator=torch.Generator().manual_seed(self.seed + 2))
        return torch.isin(torch.arange(self.count), order[: round(self.flips * self.count)])

    @cached_property
    def train(self) -> Batch:
        inputs, labels = self.drawn(self.count, self.seed + 3)
        labels = torch.where(self.flipped, (labels + 1) % self.classes, labels)
        return Batch(inputs, labels, torch.arange(self.count), None, {"teacher": inputs @ self.truth})

    @cached_property
    def query(self) -> Batch:
        inputs, labels = self.drawn(80, self.seed + 5)
        return Batch(inputs, labels, torch.arange(80), None, {"teacher": inputs @ self.truth})

    def slopes(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Logit gradients [R, N, C] and logit Hessians [R, N, C, C] at theta [R, C, d]."""
        s = torch.einsum("rcd,nd->rnc", theta, self.train.inputs)
        p, p_T = s.softmax(-1), (s / self.T).softmax(-1)
        t_T = (self.train.meta["teacher"] / self.T).softmax(-1)
        hard = nn.functional.one_hot(self.labels, self.classes)
        gradient = self.alpha * (p - hard) + (1 - self.alpha) * self.T * (p_T - t_T)
        curvature = self.alpha * spread(p) + (1 - self.alpha) * spread(p_T)
        return gradient, curvature

    @property
    def labels(self) -> Tensor:
        assert self.train.targets is not None
        return self.train.targets

    def fit(self, weights: Tensor) -> Tensor:
        """The minimisers [R, C, d] of (1/N) sum_i w_i L_i + l2 / 2 |theta|^2 for weights [R, N], by Newton's method."""
        x, size = self.train.inputs, self.classes * self.features
        theta = torch.zeros(len(weights), self.classes, self.features, dtype=torch.float64)
        for _ in range(40):
            g, curvature = self.slopes(theta)
            gradient = torch.einsum("rn,rnc,nd->rcd", weights, g, x).flatten(1) / self.count + self.l2 * theta.flatten(1)
            hessian = (
                torch.einsum("rn,rnce,nd,nf->rcdef", weights, curvature, x, x).reshape(len(weights), size, size) / self.count
            )
            hessian += self.l2 * torch.eye(size, dtype=torch.float64)
            step = torch.linalg.pinv(hessian, hermitian=True) @ gradient.unsqueeze(2)
            theta = theta - step.view_as(theta) * (1 / (1 + step.abs().amax((1, 2)))).view(
                -1, 1, 1
            )  # damped far from the minimum
            if gradient.abs().max() < 1e-13:
                break
        assert gradient.abs().max() < 1e-11
        return theta

    def query_loss(self, theta: Tensor) -> Tensor:
        """Mean cross-entropy of the queries, [R]."""
        log_p = torch.einsum("rcd,nd->rnc", theta, self.query.inputs).log_softmax(-1)
        assert self.query.targets is not None
        return -log_p.gather(2, self.query.targets.view(1, -1, 1).expand(len(theta), -1, 1)).mean((1, 2))

    def model(self, theta: Tensor) -> Tapped:
        """The package's model at these parameters, [C, d]."""
        layer = nn.Linear(self.features, self.classes, bias=False).double()
        layer.weight.data.copy_(theta)
        return Tapped(layer)

    @property
    def task(self) -> Distillation:
        return Distillation(KD(T=self.T) * (1 - self.alpha) + CE() * self.alpha, told_teacher)

    @cached_property
    def minimum(self) -> Tensor:
        """The parameters [C, d] with all weights 1."""
        return self.fit(torch.ones(1, self.count, dtype=torch.float64))[0]

    def phi(self, solver: Solver) -> Tensor:
        """The package's scores at the minimum."""
        return score(self.model(self.minimum), self.task, [self.train], [self.query], solver).phi

    @cached_property
    def exact_phi(self) -> Tensor:
        """With the inverse of the Hessian that was minimised, l2 included."""
        return self.phi(Exact(self.l2, relative=False))

    @cached_property
    def left_out(self) -> Tensor:
        """Real change of the query loss when each sample is left out and the model is fitted anew, [N]."""
        weights = torch.cat([torch.ones(1, self.count), 1 - torch.eye(self.count)]).double()
        losses = self.query_loss(self.fit(weights))
        return losses[1:] - losses[0]


@cache
def regression(alpha: float = 0.5, flips: float = 0.15, seed: int = 0) -> SoftmaxRegression:
    """One problem for all tests that ask for it: what was computed of it is kept."""
    return SoftmaxRegression(alpha=alpha, flips=flips, seed=seed)


def spread(p: Tensor) -> Tensor:
    """diag p - p p'."""
    return torch.diag_embed(p) - p.unsqueeze(-1) * p.unsqueeze(-2)


def correlation(a: Tensor, b: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([a, b]))[0, 1])
