"""How closely a student follows its teacher, right or wrong.

Fidelity and accuracy are different goals: Stanton et al., 2021, "Does knowledge distillation really work?", arXiv:2106.05945.
"""

from torch import Tensor

from limbeck.core.errors import ShapeError, UsageError
from limbeck.functional.divergences import forward_kl, log_softmax


def agreement(student: Tensor, teacher: Tensor) -> float:
    """The fraction of samples on which student and teacher choose the same class.

    Shapes: logits [N, C] of both.
    """
    _paired(student, teacher, "agreement")
    return float((student.argmax(-1) == teacher.argmax(-1)).double().mean())


def fidelity_kl(student: Tensor, teacher: Tensor) -> float:
    """The mean over samples of KL(softmax(teacher) || softmax(student)), in nats; 0 for a perfect copy.

    Shapes: logits [N, C] of both.
    """
    _paired(student, teacher, "fidelity_kl")
    divergence = forward_kl(log_softmax(teacher.double()), log_softmax(student.double())).mean()
    return max(0.0, float(divergence))  # rounding can leave -1e-17


def _paired(student: Tensor, teacher: Tensor, who: str) -> None:
    if student.dim() != 2 or student.shape != teacher.shape:
        raise ShapeError(
            f"{who}: student logits {list(student.shape)} and teacher logits {list(teacher.shape)} must both be [N, C]; "
            "evaluate both on the same samples and classes."
        )
    if len(student) == 0:
        raise UsageError(f"{who}: there is no sample to evaluate; give at least one.")
