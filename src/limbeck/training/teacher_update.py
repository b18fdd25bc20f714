"""How KD-AIF moves the teacher while the student trains: what the teacher's step minimises, and its gradient.

The teacher's gradient has a direct part, the weighted teacher loss at the student's lookahead, and an optional feedback part,
the derivative of the query loss at the lookahead through the student's step. Weights are constants in both.
"""

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from torch.optim import SGD

from limbeck.core.batch import Batch
from limbeck.core.checks import fraction, not_negative, one_of, positive
from limbeck.core.errors import UsageError
from limbeck.core.outputs import Outputs, Views
from limbeck.functional.divergences import cross_entropy, kd_divergence, token_mean
from limbeck.influence.captured import Capture
from limbeck.influence.gradients import at, logit_tangents, mean_gradient
from limbeck.influence.in_turn import InTurn
from limbeck.influence.restoring import random_state, statistics_untouched
from limbeck.influence.vectors import Vector, combine, trainable
from limbeck.teachers.single import Single
from limbeck.training.training import Training
from limbeck.training.weighted import Part, average_gradients, look_at, part_loss, weigh


@dataclass(frozen=True)
class TeacherRule:
    """The teacher's own loss and step size.

    Args:
        rate: The teacher's learning rate as a share of the student's, >= 0.
        alpha: Share of the soft part in the teacher's loss, in [0, 1].
        T: Temperature of the soft part, > 0.
        feedback: Factor of the second-order part through the student's step, >= 0; 0 leaves it out.
        order: `exact` looks at the student where its step would take it; `first` re-uses what is known of the present one.

    Reference: KD-AIF, arXiv:2501.02705 (its exact teacher loss is not known); the loss follows LGTM, arXiv:2305.09651.
    """

    rate: float = 0.1
    alpha: float = 0.4
    T: float = 4.0
    feedback: float = 0.0
    order: str = "exact"

    def __post_init__(self) -> None:
        not_negative(self.rate, "teacher update: rate")
        fraction(self.alpha, "teacher update: alpha")
        positive(self.T, "teacher update: T")
        not_negative(self.feedback, "teacher update: feedback")
        one_of(self.order, ("exact", "first"), "teacher update: order")

    def loss(self, teacher: Tensor, student: Tensor, batch: Batch) -> Tensor:
        """(1 - alpha) CE(y, teacher) + alpha T^2 KL(student || teacher), [B]; the student is held fixed.

        Raises:
            UsageError: The batch has no labels.
        """
        if batch.targets is None:
            raise UsageError("teacher update: needs labels, but the batch has none; use step: Student().")
        hard = token_mean(cross_entropy(teacher, batch.targets), batch.label_mask)
        soft = token_mean(kd_divergence(teacher, student.detach(), self.T), batch.mask)
        return (1 - self.alpha) * hard + self.alpha * soft


def trained_teacher(training: Training, who: str) -> Single:
    """The teacher when it is one that may be trained.

    Raises:
        UsageError: There is none, or it is frozen.
    """
    teacher = training.distiller.teacher
    if not isinstance(teacher, Single) or not teacher.trained:
        raise UsageError(f"{who}: updates the teacher, but it is frozen or missing; pass teacher=Single(model, trained=True).")
    return teacher


def teacher_optimizer(training: Training, teacher: Single, rule: TeacherRule) -> SGD:
    """Plain SGD on the teacher at its own rate."""
    return SGD(teacher.tapped.parameters(), lr=rule.rate * training.learning_rate)


def lookahead(training: Training) -> Vector:
    """theta_S' = theta_S - eta_S x (the gradient at hand): where one plain SGD step would take the student. Nothing is kept."""
    own = trainable(training.distiller.student)
    gradient = {name: torch.zeros_like(part) if part.grad is None else part.grad for name, part in own.items()}
    return combine({name: part.detach() for name, part in own.items()}, -training.learning_rate, gradient)


def captured_look(training: Training, part: Part, parameters: Vector) -> tuple[Tensor, Outputs, Capture]:
    """As `look_at` for a batch not cut, by a pass that is captured: inner products with any direction are then at hand."""
    assert training.way is not None
    student, capture = training.distiller.student, Capture(training.distiller.student, shared=set(training.way.shared))
    leaves = {name: value.detach().requires_grad_() for name, value in parameters.items()}
    with torch.enable_grad(), statistics_untouched(student), random_state(part.rng):
        with training.engine.autocast(), capture.recording(len(part.batch)):
            seen = at(student, leaves)(part.batch)
        values = part_loss(training, part)(lambda _: seen, part.batch)
        capture.backward(values.mean())
    return values.detach(), seen.detach(), capture


def captures(training: Training, parts: list[Part]) -> bool:
    """Whether a pass over these parts may be captured, going by what the student's steps have found out."""
    found = training.way is not None and training.way.way == "captured"
    return found and len(parts) == 1 and training.engine.processes == 1


def teacher_backward(
    training: Training, teacher: Single, rule: TeacherRule, parts: list[Part], student_weights: Tensor, *, weighted: bool
) -> None:
    """Leave the teacher's gradient, direct and feedback, in its parameters; the student's gradient must be at hand.

    Args:
        training: The run, after the student's backward pass and before its step.
        teacher: The teacher to move.
        rule: Its loss.
        parts: The batch, cut.
        student_weights: [B] the weights of the student's step.
        weighted: Whether the teacher's samples are weighted by their influence at the lookahead.
    """
    ahead = lookahead(training)
    queried = query_gradient(training, ahead) if rule.feedback > 0 else None
    if weighted and captures(training, parts):
        losses, answer, capture = captured_look(training, parts[0], ahead)
        seen, weights = [answer], weigh(training, parts, lambda: losses, ahead, queried=queried, capture=capture)
    else:
        losses, seen = look_at(training, parts, ahead)
        weights = weigh(training, parts, lambda: losses, ahead, queried=queried) if weighted else torch.ones_like(student_weights)
    _backward(training, teacher, rule, parts, seen, weights, student_weights, None if queried is None else queried[0])


def first_order_backward(
    training: Training,
    teacher: Single,
    rule: TeacherRule,
    parts: list[Part],
    student_weights: Tensor,
    weights: Tensor,
    pull: Vector | None,
) -> None:
    """The same with all that belongs to the lookahead taken from the present student: right to first order in eta_S.

    Args:
        training: The run, after the student's backward pass and before its step.
        teacher: The teacher to move.
        rule: Its loss.
        parts: The batch, cut, with the student's answers.
        student_weights: [B] the weights of the student's step.
        weights: [B] the weights of the teacher's samples.
        pull: The present student's query gradient; None leaves the feedback out. An older one agrees less.
    """
    seen = [part.student for part in parts if part.student is not None]
    _backward(training, teacher, rule, parts, seen, weights, student_weights, pull)


def _backward(
    training: Training,
    teacher: Single,
    rule: TeacherRule,
    parts: list[Part],
    seen: list[Outputs],
    weights: Tensor,
    student_weights: Tensor,
    pull: Vector | None,
) -> None:
    """Both parts of the gradient, given what of the student goes into them."""
    count, start = len(student_weights), 0
    amounts = training.distiller.amounts(Batch.concat([part.batch for part in parts]), training.engine.gather)
    moved = student_weights if amounts is None else student_weights * amounts
    for part, student in zip(parts, seen, strict=True):
        rows = slice(start, start + len(part.batch))
        answer = part.taught or cast(Outputs, teacher.tapped(part.batch))
        loss = (weights[rows] * rule.loss(answer.logits, student.logits, part.batch)).sum() / count
        if pull is not None:
            loss = loss + rule.feedback * feedback(training, part, answer.logits, moved[rows], pull, count)
        torch.autograd.backward(loss)
        start += len(part.batch)
    average_gradients(training.engine, teacher.tapped.parameters())


def feedback(training: Training, part: Part, teacher: Tensor, weights: Tensor, pull: Vector, count: int) -> Tensor:
    """A scalar whose gradient in the teacher is that of the query loss at the lookahead, through the student's step.

    -(eta_S / B) sum_i <u_i, d(sum_j w_j l_j)/ds_i> with u_i = J_i v' one tangent pass of the student at its present
    parameters and v' the query gradient at the lookahead: exact for an SGD lookahead and any objective on logits, also one
    that couples the samples.

    Args:
        training: The run.
        part: Samples.
        teacher: The teacher's logits for them, with their graph.
        weights: [b] what the samples counted in the student's step.
        pull: v'.
        count: Samples in the whole batch, B.

    Reference: derived in KD-AIF's terms; the same gradient by double backward through the step and by central differences
    stands in the tests.
    """
    student = training.distiller.student
    own = {name: p.detach() for name, p in trainable(student).items()}
    u, present = logit_tangents(student, own, part.batch, pull, rng=part.rng)
    s = present.logits.detach().requires_grad_()
    views = Views(Outputs(s, present.features), Outputs(teacher, part.teacher.features if part.teacher else {}), part.batch)
    values = training.distiller.objective.per_sample(views)
    (slope,) = torch.autograd.grad((weights.to(values.dtype) * values).sum(), s, create_graph=True)
    total: Tensor = (slope * u).sum() * (-training.learning_rate / count)
    return total


def query_gradient(training: Training, parameters: Vector | None = None, turned: InTurn | None = None) -> tuple[Vector, float]:
    """The gradient of the mean query loss at the student's own or at other parameters, and that loss (nats).

    Args:
        training: The run.
        parameters: Where it is taken; None for the student's own.
        turned: Parts of the query set that have their turn; None takes all of it.

    Raises:
        UsageError: There is no query set.
    """
    if training.queries is None:
        raise UsageError("teacher update: feedback needs a query set, but the run has none; pass queries=... to fit.")
    distiller = training.distiller

    def gradient(few: Batch) -> tuple[Vector, float]:
        return mean_gradient(distiller.student, distiller.task().query_loss, training.asked(few), parameters)

    with random_state(torch.get_rng_state()):  # the next step's dropout masks stay as they are
        return (turned or InTurn(1))(training.queries, gradient)
