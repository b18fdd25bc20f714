"""TGeo-KD's step: the controller learns from what the student's step to come would do to the query loss."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, final

import torch
from torch import Tensor
from torch.optim import Adam

from limbeck.core.batch import Batch
from limbeck.core.checks import not_negative, positive, whole
from limbeck.core.errors import UsageError
from limbeck.core.outputs import Views
from limbeck.core.shown import shown
from limbeck.data.loader import Loader
from limbeck.influence.gradients import inner_products, mean_gradient
from limbeck.influence.restoring import random_state, statistics_untouched
from limbeck.influence.task import Forward
from limbeck.losses.logits.tgeokd import TGeoKD
from limbeck.training.teacher_update import lookahead
from limbeck.training.training import Record, Training
from limbeck.training.weighted import Part, average_gradients, next_queries, parts_of, weighted_backward


@final
class Bilevel:
    """First TGeoKD's controller, down the gradient of the query loss at theta', then the student with the new ratios.

    theta' = theta - eta grad L(theta, omega) is one plain SGD step. What the query loss there owes to the ratio of sample i is
    -(eta / B) c w_i <grad L_q(theta'), grad (T^2 KL_i - CE_i)(theta)>, exact from one tangent pass: no graph of second order.

    Args:
        every: Steps between two updates of the controller, >= 1.
        lr: Of the controller's Adam, > 0.
        weight_decay: Of the controller's Adam, >= 0.

    Raises:
        UsageError: An argument is out of its range.

    Reference: Hu et al., 2024, arXiv:2312.15112, the bilevel problem with one unrolled step. Differs from the paper: the released
    code's controller gets no gradient; its lr 0.1 and weight decay 0.05 are too large for many mini-batch steps.

    >>> Bilevel()
    Bilevel(every=1, lr=0.001, weight_decay=0.0001)
    """

    trains_teacher = False
    writes = False

    def __init__(self, every: int = 1, *, lr: float = 1e-3, weight_decay: float = 1e-4) -> None:
        self.every = whole(every, "Bilevel: every")
        self.lr = positive(lr, "Bilevel: lr")
        self.weight_decay = not_negative(weight_decay, "Bilevel: weight_decay")

    def prepare(self, training: Training, loader: Loader, *, resumed: bool) -> None:
        """Find the term whose controller is to learn, and make its optimiser.

        Raises:
            UsageError: There is not one TGeoKD, or no query set.
        """
        objective = training.distiller.objective
        found = [place for place, (_, term) in enumerate(objective.parts) if isinstance(term, TGeoKD)]
        if len(found) != 1:
            raise UsageError(
                f"Bilevel: trains the controller of one TGeoKD, but the objective is {objective!r}; use one, or Student()."
            )
        if training.queries is None or not len(training.queries):
            raise UsageError("Bilevel: the controller needs a query set, but the run has none; pass queries=... to fit.")
        (self.place,) = found
        term = objective.parts[self.place][1]
        assert isinstance(term, TGeoKD)
        self.term = term
        self.optimizer = Adam(term.controller.parameters(), lr=self.lr, weight_decay=self.weight_decay)

    def __call__(self, training: Training, batch: Batch) -> Record:
        """One update of the controller, when it is time, and one of the student."""
        parts = parts_of(training, batch)  # the teacher answers once, for both
        weights, figures = self.learn(training, batch, parts) if training.number % self.every == 0 else (None, {})
        record, _ = weighted_backward(training, batch, weights, parts=parts)
        training.apply()
        return replace(record, figures=record.figures | figures)

    def learn(self, training: Training, batch: Batch, parts: list[Part]) -> tuple[Tensor, dict[str, float]]:
        """Update the controller; the weights of the student's step, and figures. All else is afterwards as it was."""
        distiller = training.distiller
        with statistics_untouched(distiller), random_state(torch.get_rng_state()), distiller.unbalanced():
            first, seen = weighted_backward(training, batch, parts=parts)
            loss, alpha = self.backward(training, seen, first.weights)
        training.optimizer.zero_grad(set_to_none=True)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return first.weights, {"query_loss_ahead": loss, "alpha": alpha}

    def backward(self, training: Training, parts: list[Part], weights: Tensor) -> tuple[float, float]:
        """Leave the gradient of the query loss at theta' in the controller; that loss, and the mean ratio.

        Args:
            training: The run, with the gradient of the student's step at hand.
            parts: The batch, cut, with what both sides answered.
            weights: [B] of the student's step.
        """
        distiller, term, count = training.distiller, self.term, len(weights)
        with random_state(torch.get_rng_state()):
            query_loss, queries = distiller.task().query_loss, next_queries(training, count)
            pull, loss = mean_gradient(distiller.student, query_loss, [queries], lookahead(training))
        gaps = [
            inner_products(distiller.student, self.gap(training, part), part.batch, pull, coupled=False, rng=part.rng)
            for part in parts
        ]
        own = {name: part.detach().requires_grad_() for name, part in term.controller.named_parameters()}
        seen = [term.features(Views(part.student, part.teacher, part.batch)) for part in parts if part.student is not None]
        alpha = term.ratio(torch.cat(seen), own)
        coef = float(distiller.objective.coefs[self.place] * distiller.objective.factors[self.place])
        slope = -training.learning_rate * coef / count * weights.to(alpha) * torch.cat(gaps).to(alpha)
        found = torch.autograd.grad(alpha, [*own.values()], slope)
        for part, gradient in zip(term.controller.parameters(), found, strict=True):
            part.grad = gradient
        average_gradients(training.engine, term.controller.parameters())
        return loss, float(alpha.detach().mean())

    def gap(self, training: Training, part: Part) -> Callable[[Forward, Batch], Tensor]:
        """What a sample's loss gains per ratio, T^2 KL - CE, as a function of the student."""

        def loss(student: Forward, batch: Batch) -> Tensor:
            with training.engine.autocast():
                soft, hard = self.term.parts(Views(student(batch), part.teacher, batch))
            return soft - hard

        return loss

    def state(self) -> dict[str, Any]:
        """The controller's optimiser; the controller is part of the objective."""
        return {"controller_optimizer": self.optimizer.state_dict()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take back what `state` gave."""
        self.optimizer.load_state_dict(state["controller_optimizer"])

    def __repr__(self) -> str:
        return shown(self, "every", "lr", "weight_decay")
