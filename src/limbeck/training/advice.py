"""What is allowed and yet hardly meant: said once, before the first step."""

from collections.abc import Iterator

import torch
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from limbeck.core.batch import Batch
from limbeck.distiller import Distiller
from limbeck.influence.restoring import modes_restored


def advice(distiller: Distiller, batch: Batch, *, teacher_moves: bool) -> Iterator[str]:
    """One sentence for each thing that a user should know of before training.

    Args:
        distiller: Ready to train.
        batch: A few samples.
        teacher_moves: Whether the step updates the teacher, which may then begin as a copy of the student.
    """
    for name, (coef, _) in zip(distiller.objective.names, distiller.objective.parts, strict=True):
        if coef == 0:
            yield f"{name} has the coefficient 0: it is evaluated at every step and changes nothing; leave it out."
        if coef < 0:
            yield f"{name} has the coefficient {coef:g}: training makes it larger, away from what it asks for; is a sign wrong?"
    with modes_restored(distiller.student, training=False), torch.no_grad():
        own, other = distiller.student(batch), distiller.teach(batch)
    if torch.equal(own.logits, own.logits.abs()) and torch.allclose(own.logits.sum(-1), torch.ones(()).to(own.logits), atol=1e-3):
        yield "The student's answers look like probabilities; a net answers with logits, so leave out its last softmax."
    teacher = distiller.teacher
    if teacher is None:
        return
    awake = [type(part).__name__ for part in teacher.modules() if part.training and isinstance(part, _BatchNorm | _DropoutNd)]
    if awake:
        yield f"The teacher's {awake[0]} is in training mode, so that its answers move from call to call; call teacher.eval()."
    if other is not None and not teacher_moves and torch.equal(own.logits, other.logits):
        yield "Student and teacher give the same answers before the first step, so nothing is to be taught; look at both nets."
