"""Nets that teach the next: born-again nets, assistants, and generations that are anchored to the first teacher."""

from collections.abc import Callable, Iterator

from torch import nn

from limbeck.core.checks import fraction, whole
from limbeck.teachers.ensemble import Ensemble
from limbeck.teachers.single import Single
from limbeck.teachers.teacher import Teacher


def generations(
    base: Teacher, train: Callable[[Teacher, int], nn.Module], count: int, *, anchor: float = 0.0, combine: str = "probability"
) -> Iterator[nn.Module]:
    """Train one net after the other, each taught by the mean of the base and the net before it in shares (anchor, 1 - anchor).

    anchor = 0 is the born-again chain, or one over assistants where `train` makes smaller and smaller nets; anchor = 1 is plain
    distillation from the base every time. Stop whenever the last net is good enough: nothing is trained ahead.

    Args:
        base: Teaches the first net alone.
        train: Makes and trains the net of a generation, counted from 0, by its teacher.
        count: How many, >= 1.
        anchor: The base's share in every later target, in [0, 1].
        combine: How the two are mixed, as `Ensemble` does: `probability` (linear) or `logit` (geometric).

    Raises:
        UsageError: An argument is out of its range.

    Reference: born-again: Furlanello et al., 2018, arXiv:1805.04770; assistants: Mirzadeh et al., 2020, arXiv:1902.03393;
    anchored: 2026, arXiv:2601.13100. Reconstructed: that one names no operator; both standard ones are offered.
    """
    whole(count, "generations: count")
    fraction(anchor, "generations: anchor")
    teacher = base
    for number in range(count):
        model = train(teacher, number)
        yield model
        teacher = Ensemble([base, Single(model)], combine, weights=[anchor, 1 - anchor]) if anchor else Single(model)
