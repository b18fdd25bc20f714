"""Several teachers as one."""

from collections.abc import Sequence
from typing import cast, final

import torch
from torch import Tensor, nn

from limbeck.core.batch import Batch
from limbeck.core.checks import not_negative, one_of
from limbeck.core.errors import ShapeError, UsageError
from limbeck.core.outputs import Outputs
from limbeck.functional.divergences import full_precision
from limbeck.functional.ensembles import Combine, mean_of
from limbeck.teachers.teacher import Teacher


@final
class Ensemble(Teacher):
    """The weighted mean of several teachers: of their probabilities, or of their logits.

    `probability`: logits = log sum_m w_m softmax(t_m), which a term then softens by its own T. `logit`: sum_m w_m t_m, which is
    the geometric mean of the probabilities at any T. A teacher of weight 0 is not asked.

    Args:
        teachers: At least one, all for the same classes.
        combine: `probability` or `logit`.
        weights: One per teacher, >= 0, not all 0; they are divided by their sum. None for equal ones.

    Raises:
        UsageError: An argument is out of its range, or inner activations are asked for.

    Reference: Hinton, Vinyals, Dean, 2015, arXiv:1503.02531, sec. 3, names both means. Differs from the paper: no.

    >>> from limbeck.teachers.single import Single
    >>> Ensemble([Single(nn.Linear(2, 3)), Single(nn.Linear(2, 3))], "logit", weights=[3, 1])
    Ensemble(2 teachers, combine='logit', weights=[0.75, 0.25])
    """

    offers = frozenset({"logits"})

    def __init__(
        self, teachers: Sequence[Teacher], combine: str = "probability", *, weights: Sequence[float] | None = None
    ) -> None:
        super().__init__()
        if not teachers:
            raise UsageError("Ensemble: needs at least one teacher, got none.")
        given = [1.0] * len(teachers) if weights is None else [not_negative(w, "Ensemble: each weight") for w in weights]
        if len(given) != len(teachers) or not sum(given):
            raise UsageError(f"Ensemble: weights must be one per teacher and not all 0, got {given} for {len(teachers)}.")
        self.teachers = nn.ModuleList(teachers)
        self.combine = cast(Combine, one_of(combine, ("probability", "logit"), "Ensemble: combine"))
        self.weights = [weight / sum(given) for weight in given]

    def forward(self, batch: Batch) -> Outputs:
        """The mean, without a graph.

        Raises:
            ShapeError: Two teachers do not answer for the same classes.
        """
        asked = zip(self.teachers, self.weights, strict=True)
        with torch.no_grad():
            return Outputs(self.mean([cast(Outputs, teacher(batch)).logits if weight else None for teacher, weight in asked]))

    def mean(self, answers: Sequence[Tensor | None]) -> Tensor:
        """The mean of the teachers' logits, one each; those of weight 0 are not looked at.

        Raises:
            ShapeError: Two teachers do not answer for the same classes.
        """
        heard = [
            (full_precision(answer), weight)
            for answer, weight in zip(answers, self.weights, strict=True)
            if weight and answer is not None
        ]
        shapes = sorted({tuple(answer.shape) for answer, _ in heard})
        if len(shapes) > 1:
            raise ShapeError(f"Ensemble: teachers answer with {shapes}; they must answer for the same classes.")
        return mean_of([answer for answer, _ in heard], [weight for _, weight in heard], self.combine)

    def tap(self, names: tuple[str, ...]) -> None:
        """Refuse: there is no mean of inner activations.

        Raises:
            UsageError: Always.
        """
        raise UsageError(f"Ensemble: has no inner activations {', '.join(names)}; use terms on logits, or one teacher.")

    def extra_repr(self) -> str:
        """The arguments."""
        weights = [float(f"{weight:.4g}") for weight in self.weights]
        return f"{len(self.teachers)} teachers, combine={self.combine!r}, weights={weights}"

    def __repr__(self) -> str:
        return f"Ensemble({self.extra_repr()})"
