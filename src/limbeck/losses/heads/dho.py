"""Dual-head optimisation: one head learns the labels, another the teacher, and inference mixes both (Kang et al., 2025)."""

from copy import deepcopy
from typing import final

import torch
from torch import Tensor, nn

from limbeck.align.taps import PENULTIMATE, classifier_of, with_classifier
from limbeck.core.checks import fraction, positive
from limbeck.core.errors import UsageError
from limbeck.core.outputs import Views
from limbeck.core.shown import arguments
from limbeck.core.term import Moment, Scene, Term, targets_of
from limbeck.losses.heads.onhead import OnHead
from limbeck.losses.logits.kd import KD
from limbeck.students.dual_head import DualHead, Mixture, best_mixture, mix


@final
class DHO(Term):
    """term on a second linear head whose probabilities the net that is kept mixes with those of its own classifier.

    `CE() * 0.5 + DHO(KD(T=2)) * 0.5` is the paper's loss on labelled samples: labels reach the student's classifier only, the
    teacher the second head only, and both reach what lies below. Where half of the samples have no label, and CE is 0, it is half
    of the paper's loss on both. Inference: alpha softmax(own) + (1 - alpha) softmax(second / beta), as log-probabilities in the
    place of logits. `tune` chooses alpha and beta.

    Args:
        term: Any term that reads logits only; KD(T=2) where none is named.
        alpha: Share of the student's own classifier at inference, in [0, 1].
        beta: Temperature of the second head at inference, > 0.

    Shapes: features [B, D] under the classifier -> [B].

    Raises:
        UsageError: An argument is out of its range, or the term reads more than logits.

    Reference: Kang et al., 2025, arXiv:2505.07675. Differs from the paper: heads start at random, not from the text embeddings
    of a vision-language teacher; alpha = beta = 0.5 is its ImageNet setting.

    >>> DHO(KD(T=2))
    DHO(KD(T=2), alpha=0.5, beta=0.5)
    """

    builds = True
    deploys = True
    tunes = True
    mixture: Tensor

    def __init__(self, term: Term | None = None, *, alpha: float = 0.5, beta: float = 0.5) -> None:
        super().__init__()
        self.second = OnHead(KD(T=2) if term is None else term)
        self.needs, self.coupled = self.second.needs, self.second.coupled
        values = [fraction(alpha, "DHO: alpha"), positive(beta, "DHO: beta")]
        self.register_buffer("mixture", torch.tensor(values, dtype=torch.float64))

    @property
    def student_taps(self) -> tuple[str, ...]:
        """The input of the student's classifier."""
        return (PENULTIMATE,)

    def build(self, scene: Scene) -> None:
        """Make the second head."""
        self.second.build(scene)

    def at(self, moment: Moment) -> None:
        """Tell the inner term."""
        self.second.at(moment)

    def forward(self, views: Views) -> Tensor:
        """One value per sample, [B]."""
        value: Tensor = self.second(views)
        return value

    def answer(self, views: Views) -> Tensor:
        """The log-probabilities of the mixture."""
        (second,) = self.second.answers(views)
        return mix(views.student.logits, second, *self.mixture.tolist())

    def tune(self, views: Views) -> None:
        """Choose alpha and beta from the official grids for the best accuracy on these samples; take validation samples.

        A run by recipe does so at the end of its training.

        Args:
            views: The student in evaluation mode, with its features, and labels. No teacher is needed.
        """
        with torch.no_grad():
            (second,) = self.second.answers(views)
        found = best_mixture(views.student.logits, second, targets_of(views, "DHO"))
        self.mixture = self.mixture.new_tensor([found.alpha, found.beta])

    def deploy(self, student: nn.Module) -> nn.Module:
        """A copy of the student with both heads and their mixture in the place of its classifier.

        Raises:
            UsageError: Its last linear layer does not give the logits.
        """
        (second,), own = self.second.heads, classifier_of(student)
        if own.out_features != second.out_features or own.in_features != second.in_features:
            raise UsageError(f"DHO: {own} is no classifier like the second head {second}; use OnHead, which inference drops.")
        return with_classifier(student, DualHead(deepcopy(own), deepcopy(second), Mixture(*self.mixture.tolist())))

    def extra_repr(self) -> str:
        """The arguments."""
        alpha, beta = self.mixture.tolist()
        return arguments(self, "term", "alpha", "beta", term=self.second.term, alpha=alpha, beta=beta)
