"""Distillation on learnt augmentations (HARD, 2023)."""

from dataclasses import replace
from typing import Any, cast, final

import torch
from torch import Tensor

from limbeck.core.batch import Batch
from limbeck.core.checks import fraction, not_negative, positive, whole
from limbeck.core.errors import UsageError
from limbeck.core.outputs import Outputs
from limbeck.core.shown import shown
from limbeck.data.loader import Loader
from limbeck.functional.divergences import forward_kl, log_softmax, token_mean
from limbeck.influence.restoring import modes_restored
from limbeck.teachers.single import Single
from limbeck.training.training import Record, Training
from limbeck.training.weighted import average_gradients, weighted_backward
from limbeck.transforms.augmentor import BOUNDS, Augmentor


@final
class HARD:
    """An augmentor looks for images on which student and teacher disagree while the teacher stays as it was; then all learn.

    Augmentor: least mean of drift D(f_T(x), f_T(x~)) - disagreement D(f_T(x~), f_S(x~)), D = KL at T, where a sample whose drift
    is above `limit` counts by its drift alone. Student: the distiller's objective and weights on a batch of which a share is
    augmented.

    Args:
        mix: Share of the batch that the student sees augmented, in [0, 1].
        seek: Weight of the disagreement, >= 0; 0 looks for what the teacher does not notice.
        hold: Weight of the drift, >= 0; 0 is purely adversarial.
        limit: Drift, in nats, above which a sample is only brought back, > 0.
        T: Temperature of both divergences, > 0.
        rate: The augmentor's learning rate (Adam), > 0.
        searches: Augmentor steps per student step, >= 1.

    Raises:
        UsageError: An argument is out of its range, or the teacher is not one model.

    Reference: HARD: hard augmentations for robust distillation, 2023, arXiv:2305.14890. Reconstructed: the principle is the
    paper's; losses, thresholds, the alternation and the family (affine maps, gain and bias) are the project's. Differs: a share
    of the samples is augmented, not each sample's two losses mixed, which has the same mean and keeps one loss per sample.

    >>> HARD()
    HARD(mix=0.5)
    """

    trains_teacher = False
    writes = False

    def __init__(
        self,
        mix: float = 0.5,
        *,
        seek: float = 1.0,
        hold: float = 1.0,
        limit: float = 0.5,
        T: float = 4.0,
        rate: float = 1e-3,
        searches: int = 1,
    ) -> None:
        self.mix = fraction(mix, "HARD: mix")
        self.seek, self.hold = not_negative(seek, "HARD: seek"), not_negative(hold, "HARD: hold")
        self.limit, self.T = positive(limit, "HARD: limit"), positive(T, "HARD: T")
        self.rate, self.searches = positive(rate, "HARD: rate"), whole(searches, "HARD: searches")
        self.augmentor = Augmentor()
        self.optimizer = torch.optim.Adam(self.augmentor.parameters(), lr=self.rate)

    def prepare(self, training: Training, loader: Loader, *, resumed: bool) -> None:
        """Begin with the identity.

        Raises:
            UsageError: The teacher is not one model.
        """
        if not isinstance(training.distiller.teacher, Single):
            raise UsageError("HARD: gradients go through the teacher to its images; pass teacher=Single(model).")
        self.augmentor = Augmentor().to(training.engine.device)
        self.optimizer = torch.optim.Adam(self.augmentor.parameters(), lr=self.rate)

    def __call__(self, training: Training, batch: Batch) -> Record:
        """The augmentor's steps, then the student's."""
        for _ in range(self.searches):
            disagreement, drift = self._search(training, batch)
        with torch.no_grad():
            other = self.augmentor(batch.inputs, draw(batch))
        rows = torch.randperm(len(batch))[: round(self.mix * len(batch))]
        augmented = torch.zeros(len(batch), dtype=torch.bool)
        augmented[rows] = True
        seen = torch.where(augmented.view(-1, 1, 1, 1).to(other.device), other, batch.inputs)
        record, _ = weighted_backward(training, replace(batch, inputs=seen))
        training.apply()
        return replace(record, figures={**record.figures, "disagreement": disagreement, "drift": drift})

    def _search(self, training: Training, batch: Batch) -> tuple[float, float]:
        """One step of the augmentor; neither net moves. The mean disagreement and drift before it."""
        student, teacher = training.distiller.student, training.distiller.teacher
        assert isinstance(teacher, Single)
        with modes_restored(student, training=False), training.engine.autocast():
            other = replace(batch, inputs=self.augmentor(batch.inputs, draw(batch)))
            answers = [cast(Outputs, net(part)).logits for net, part in ((student, other), (teacher.tapped, other))]
            with torch.no_grad():
                clean = cast(Outputs, teacher(batch)).logits
            found = divergences(answers[0], answers[1], clean, batch.mask, self.T)
        loss = self.loss(*found).mean()
        own = list(self.augmentor.parameters())
        for part, slope in zip(own, torch.autograd.grad(loss, own), strict=True):
            part.grad = slope
        average_gradients(training.engine, own)
        self.optimizer.step()
        self.augmentor.project()
        return float(found[0].detach().mean()), float(found[1].detach().mean())

    def loss(self, disagreement: Tensor, drift: Tensor) -> Tensor:
        """What the augmentor minimises, per sample: hold drift - seek disagreement, the latter only within the limit."""
        return self.hold * drift - self.seek * torch.where(drift <= self.limit, disagreement, torch.zeros_like(disagreement))

    def state(self) -> dict[str, Any]:
        """The augmentor and its optimiser."""
        return {"augmentor": self.augmentor.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take back what `state` gave."""
        self.augmentor.load_state_dict(state["augmentor"])
        self.optimizer.load_state_dict(state["optimizer"])

    def __repr__(self) -> str:
        return shown(self, "mix")


def draw(batch: Batch) -> Tensor:
    """Uniform numbers in [-1, 1], [B, 6]; from the run's random state, which the checkpoint has."""
    return (2 * torch.rand(len(batch), len(BOUNDS)) - 1).to(batch.index.device)


def divergences(
    student: Tensor, teacher: Tensor, clean: Tensor, mask: Tensor | None = None, T: float = 1.0
) -> tuple[Tensor, Tensor]:
    """KL(teacher || student) on the augmented samples, and the teacher's KL(clean || augmented), [B] each."""
    after = log_softmax(teacher, T)
    pairs = (after, log_softmax(student, T)), (log_softmax(clean, T), after)
    first, second = (token_mean(forward_kl(*pair), mask) for pair in pairs)
    return first, second
