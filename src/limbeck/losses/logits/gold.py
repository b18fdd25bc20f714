"""Universal logit distillation on aligned tokens and shared vocabulary entries (GOLD, after Boizard et al., 2024)."""

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from limbeck.core.checks import proper_fraction
from limbeck.core.errors import ShapeError, UsageError
from limbeck.core.outputs import Views
from limbeck.core.shown import arguments
from limbeck.core.term import Term, targets_of, teacher_of
from limbeck.functional.divergences import jensen_shannon, log_softmax, token_mean
from limbeck.functional.vocabularies import merged, sorted_distance
from limbeck.losses.logits.uld import paired

STUDENT_GROUPS, TEACHER_GROUPS, TEACHER_TARGETS = "student_groups", "teacher_groups", "teacher_targets"
"""Columns of a batch: the group of text that a token belongs to, 0, 1, ... in each sample, -1 for none; the teacher's labels."""


@final
class GOLD(Term):
    """w JSD_beta over the classes that both sides share + (1 - w) ULD over the others, w the shared part of the teacher's.

    Tokens of two tokenizers are compared by groups that cover the same text (`shared_groups` makes them). The distribution of a
    group is that of its last token times the probabilities of the tokens observed before it: the chain rule, exactly. The
    masses that are compared need not sum to 1; the Jensen-Shannon divergence of such is still 0 only where they agree, and
    never below. Everything shared, it is JSD(beta); nothing, ULD().

    Args:
        shared: [(student's class, teacher's class), ...] of the same meaning, as `shared_entries` finds them; None for those of
            the same number, for tokenizers of one family that are filled up to other sizes.
        beta: The teacher's share of the mixture, strictly between 0 and 1.

    Shapes: logits [B, C] and [B, C'], or [B, L, V] and [B, L', V'] with batch.mask -> [B]. With batch.meta["student_groups"]
    [B, L] and ["teacher_groups"] [B, L'] also the labels of both sides, batch.targets [B, L] and ["teacher_targets"] [B, L'].
    Without groups tokens are paired as in ULD.

    Raises:
        ShapeError: The sides do not fit together, or the samples' groups differ in number.
        UsageError: beta is out of range, an entry of `shared` is no pair of classes or comes twice, or there is no teacher.

    Reference: GOLD in TRL (`uld_use_hybrid_loss`), on Boizard et al., 2024, arXiv:2402.12030. Differs from it: its default
    takes the first token's distribution times the probabilities of those after; this is its "bayesian".

    >>> GOLD()
    GOLD(beta=0.5)
    """

    needs = frozenset({"teacher"})
    crosses = True
    pairs: Tensor | None

    def __init__(self, shared: Sequence[tuple[int, int]] | None = None, beta: float = 0.5) -> None:
        super().__init__()
        self.beta = proper_fraction(beta, "GOLD: beta")
        self.register_buffer("pairs", None if shared is None else _checked(shared), persistent=False)

    def forward(self, views: Views) -> Tensor:
        """One value per sample, [B]."""
        log_q, log_p, mask = self.grouped(views) if STUDENT_GROUPS in views.batch.meta else self.whole(views)
        own, theirs = self.places(log_q.shape[-1], log_p.shape[-1])
        weight = len(own) / log_p.shape[-1]
        matched = jensen_shannon(log_p[..., theirs], log_q[..., own], self.beta)
        rest = sorted_distance(*(_without(log, ids).exp() for log, ids in ((log_p, theirs), (log_q, own))))
        return token_mean(weight * matched + (1 - weight) * rest, mask)

    def whole(self, views: Views) -> tuple[Tensor, Tensor, Tensor | None]:
        """Log-probabilities of student and teacher, token against token, and which count."""
        student, teacher, mask = paired(views, "GOLD")
        return log_softmax(student), log_softmax(teacher), mask

    def grouped(self, views: Views) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probabilities of student and teacher, group against group, and which count.

        Raises:
            ShapeError: The sides do not fit together.
        """
        meta, found, counts = views.batch.meta, [], []
        missing = [name for name in (TEACHER_GROUPS, TEACHER_TARGETS) if name not in meta]
        if missing:
            raise ShapeError(f"GOLD: {STUDENT_GROUPS} needs {' and '.join(missing)} beside it in batch.meta.")
        sides = (
            (views.student.logits, meta[STUDENT_GROUPS], targets_of(views, "GOLD")),
            (teacher_of(views, "GOLD").logits, meta[TEACHER_GROUPS], meta[TEACHER_TARGETS]),
        )
        for logits, groups, targets in sides:
            if not logits.shape[:-1] == groups.shape == targets.shape:
                raise ShapeError(
                    f"GOLD: logits {list(logits.shape)} need a group and a label per token, got {list(groups.shape)} and "
                    f"{list(targets.shape)}."
                )
            counts.append(groups.amax(1) + 1)
        if not torch.equal(*counts):
            raise ShapeError(f"GOLD: student and teacher have {counts[0].tolist()} and {counts[1].tolist()} groups; align them.")
        most = max(int(counts[0].max()), 1)
        found = [merged(log_softmax(logits), groups, targets, most) for logits, groups, targets in sides]
        mask = torch.arange(most, device=counts[0].device) < counts[0].unsqueeze(1)
        return found[0], found[1], mask

    def places(self, own: int, theirs: int) -> tuple[Tensor, Tensor]:
        """The shared classes' numbers on either side.

        Raises:
            UsageError: A number lies outside the classes.
        """
        if self.pairs is None:
            same = torch.arange(min(own, theirs))
            return same, same
        if len(self.pairs) and (int(self.pairs[:, 0].max()) >= own or int(self.pairs[:, 1].max()) >= theirs):
            raise UsageError(f"GOLD: shared names classes beyond the student's {own} or the teacher's {theirs}.")
        return self.pairs[:, 0], self.pairs[:, 1]

    def extra_repr(self) -> str:
        """The arguments."""
        shared = None if self.pairs is None else [(own, other) for own, other in self.pairs.tolist()]
        return arguments(self, "beta", shared=shared)


def _checked(shared: Sequence[tuple[int, int]]) -> Tensor:
    pairs = torch.tensor([*shared], dtype=torch.int64).reshape(-1, 2) if all(len(pair) == 2 for pair in shared) else None
    if pairs is None or (pairs < 0).any() or any(len(side.unique()) < len(side) for side in pairs.T):
        raise UsageError("GOLD: shared must be pairs of classes, student's and teacher's, each class at most once.")
    return pairs


def _without(log_p: Tensor, ids: Tensor) -> Tensor:
    kept = torch.ones(log_p.shape[-1], dtype=torch.bool, device=log_p.device)
    kept[ids] = False
    return log_p[..., kept]
