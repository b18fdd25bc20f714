"""What the steps that update the teacher share: its optimiser, its gradient by either order, and how far the two agree."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD

from limbeck.core.batch import Batch
from limbeck.data.loader import Loader
from limbeck.influence.in_turn import InTurn, parts_of
from limbeck.influence.restoring import random_state
from limbeck.influence.vectors import Vector, dot
from limbeck.teachers.single import Single
from limbeck.training.teacher_update import (
    TeacherRule,
    first_order_backward,
    query_gradient,
    teacher_backward,
    teacher_optimizer,
    trained_teacher,
)
from limbeck.training.training import Training
from limbeck.training.weighted import Part


class TeacherSide:
    """The teacher of a run and its optimiser.

    Args:
        rule: The teacher's loss and step size.
        who: The step's name, for messages.
    """

    COMPARE = 50
    """Steps between two comparisons of the first order with the exact gradient."""
    PARTS = 3
    """Most parts of the query set that have their turn in the first order's feedback: with more it agrees less."""

    def __init__(self, rule: TeacherRule, who: str) -> None:
        self.rule = rule
        self.who = who
        self.model: Single
        self.optimizer: SGD
        self.turned: InTurn

    def prepare(self, training: Training, loader: Loader, *, resumed: bool) -> None:
        """Find the teacher and make its optimiser.

        Raises:
            UsageError: The teacher is frozen or missing.
        """
        self.model = trained_teacher(training, self.who)
        self.optimizer = teacher_optimizer(training, self.model, self.rule)
        self.turned = InTurn(parts_of(0 if training.queries is None else len(training.queries), self.PARTS))

    def backward(
        self, training: Training, parts: list[Part], student_weights: Tensor, own: Tensor | None, *, weighted: bool
    ) -> dict[str, float]:
        """Leave the teacher's gradient in its parameters, by the rule's order; figures to log.

        Args:
            training: The run, with the student's gradient at hand.
            parts: The batch, cut, with the student's answers.
            student_weights: [B] of the student's step.
            own: [B] the teacher's weights by the first order; not looked at by the exact one.
            weighted: Whether the teacher's samples are weighted.
        """
        if self.rule.order == "exact" or own is None:
            teacher_backward(training, self.model, self.rule, parts, student_weights, weighted=weighted)
            return {}
        exact = self._exact(training, parts, student_weights, weighted=weighted) if training.number % self.COMPARE == 0 else None
        pull = query_gradient(training, turned=self.turned)[0] if self.rule.feedback > 0 else None
        first_order_backward(training, self.model, self.rule, parts, student_weights, own, pull)
        return {} if exact is None else {"teacher_agreement": cosine(exact, self.gradient())}

    def _exact(self, training: Training, parts: list[Part], student_weights: Tensor, *, weighted: bool) -> Vector:
        """The exact gradient, of which nothing is kept; the random numbers stay as they are."""
        parts = [replace(part, taught=None) for part in parts]  # the teacher's graph is for the gradient that stays
        with random_state(torch.get_rng_state()):
            teacher_backward(training, self.model, self.rule, parts, student_weights, weighted=weighted)
        exact = self.gradient()
        self.optimizer.zero_grad(set_to_none=True)
        return exact

    def gradient(self) -> Vector:
        """The teacher's gradient as it stands in its parameters."""
        return {name: part.grad for name, part in self.model.tapped.named_parameters() if part.grad is not None}

    def step(self, training: Training) -> None:
        """Move the teacher along the gradient at hand, at its share of the student's present rate."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.rule.rate * training.learning_rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Any]:
        """The optimiser's state, and the query gradients at hand."""
        return {"teacher_optimizer": self.optimizer.state_dict(), "turned": self.turned.state()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take back what `state` gave."""
        self.optimizer.load_state_dict(state["teacher_optimizer"])
        self.turned.load_state(state["turned"])


def cosine(a: Vector, b: Vector) -> float:
    """Of the angle between two vectors that name the same parameters; 0 where one is 0."""
    size = float((dot(a, a) * dot(b, b)).sqrt())
    return float(dot(a, b)) / size if size > 0 else 0.0


def ones(batch: Batch) -> torch.Tensor:
    """Weight 1 for every sample, [B]."""
    return torch.ones(len(batch), device=batch.index.device)
