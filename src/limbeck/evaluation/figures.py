"""The figures of one model on one set of samples, together."""

from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from limbeck.core.errors import RunError
from limbeck.evaluation.accuracy import accuracy, nll
from limbeck.evaluation.calibration import calibration_error
from limbeck.evaluation.fidelity import agreement, fidelity_kl


@dataclass(frozen=True)
class Figures:
    """How good one model is. Fractions in [0, 1], nats.

    Args:
        accuracy: Fraction of right answers.
        nll: Mean negative log-likelihood of the label.
        ece: Expected calibration error, 15 bins.
        agreement: Fraction of samples on which it chooses the teacher's class, or None without a teacher.
        fidelity_kl: Mean KL(teacher || student), or None without a teacher.
        perplexity: exp(nll) for language, else None.

    For language all are means over the tokens that count.
    """

    accuracy: float
    nll: float
    ece: float
    agreement: float | None = None
    fidelity_kl: float | None = None
    perplexity: float | None = None

    def named(self) -> dict[str, float | None]:
        """All by name; perplexity where there is one."""
        return {name: value for name, value in asdict(self).items() if name != "perplexity" or value is not None}


def evaluate(logits: Tensor, labels: Tensor, teacher_logits: Tensor | None = None) -> Figures:
    """All figures of a model's logits, against the labels and, where given, against the teacher's logits.

    Shapes: logits [N, C], int64 labels [N], teacher_logits [N, C] or None.

    Raises:
        RunError: The model answers with NaN or infinity.
    """
    broken = int((~torch.isfinite(logits)).any(-1).sum())
    if broken:
        raise RunError(
            f"evaluate: the model's logits are NaN or infinite for {broken} of {len(logits)} samples; its training diverged, "
            "so lower the learning rate or clip the gradient."
        )
    return Figures(
        accuracy=accuracy(logits, labels),
        nll=nll(logits, labels),
        ece=calibration_error(logits, labels),
        agreement=None if teacher_logits is None else agreement(logits, teacher_logits),
        fidelity_kl=None if teacher_logits is None else fidelity_kl(logits, teacher_logits),
    )
