"""One-for-all distillation between unlike architectures (Hao et al., 2023): its loss on logits."""

from typing import Literal, final, get_args

import torch.nn.functional as F
from torch import Tensor

from limbeck.core.checks import finite, one_of, positive
from limbeck.core.errors import UsageError
from limbeck.core.outputs import Views
from limbeck.core.term import Term
from limbeck.functional.divergences import log_softmax, token_mean
from limbeck.losses.sides import both_logits, fitting_labels

Form = Literal["code", "paper"]


@final
class OFA(Term):
    """-sum_c w_c log softmax(student / T)_c, with weights that enhance the label, per sample.

    With p the teacher's probabilities at T and y the label, "code" has w_y = (1 + p_y)^gamma - 1 and w_c = p_c^gamma elsewhere;
    "paper" has w_y = (1 + p_y)^gamma and w_c = p_c, one whole cross-entropy more. There is no T^2, and it is not 0 where the
    student equals the teacher.

    Args:
        gamma: Modulating exponent, >= 1. 1.1 to 1.4 is usual, more for a weaker teacher; 1 is the soft cross-entropy.
        T: Temperature, > 0.
        form: "code", which the published numbers come from, or "paper".

    Shapes: logits [B, C] and labels [B], or [B, L, V] and [B, L] with batch.mask [B, L] -> [B].

    Raises:
        ShapeError: Student and teacher differ in their classes, or logits and labels do not fit together.
        UsageError: An argument is out of range, or there is no teacher or no label.

    Reference: Hao, Guo, Han, Tang, Hu, Wang, Xu, 2023, arXiv:2310.19444. Differs from the paper: the authors' code
    unless form="paper"; on the last logits only, without the branches at the student's stages.

    >>> OFA(1.2)
    OFA(gamma=1.2, T=1, form='code')
    """

    needs = frozenset({"teacher", "targets"})
    says = ("gamma", "T", "form")

    def __init__(self, gamma: float = 1.5, T: float = 1.0, *, form: Form = "code") -> None:
        super().__init__()
        if finite(gamma, "OFA: gamma") < 1:
            raise UsageError(f"OFA: gamma must be 1 or above, got {gamma!r}.")
        self.gamma = float(gamma)
        self.T = positive(T, "OFA: T")
        self.form = one_of(form, get_args(Form), "OFA: form")

    def forward(self, views: Views) -> Tensor:
        """One value per sample, [B]."""
        (student, teacher), targets = both_logits(views, "OFA"), fitting_labels(views, "OFA")
        p = log_softmax(teacher, self.T).exp()
        label = F.one_hot(targets, p.shape[-1]).to(p.dtype)
        enhanced, plain = (p + label) ** self.gamma, label * (1 + p) ** self.gamma + (1 - label) * p
        weights = enhanced - label if self.form == "code" else plain
        return token_mean(-(weights * log_softmax(student, self.T)).sum(-1), views.batch.mask)
