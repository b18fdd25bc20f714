"""Differences among the leading logits, led by either side (Sun et al., 2026)."""

from typing import final

import torch
from torch import Tensor

from limbeck.core.checks import positive, whole
from limbeck.core.errors import ShapeError, UsageError
from limbeck.core.outputs import Views
from limbeck.core.term import Term
from limbeck.functional.divergences import forward_kl, full_precision, token_mean
from limbeck.losses.sides import both_logits

HEAD = 128
"""How many of the largest probabilities the knee is looked for in."""


@final
class DBiLD(Term):
    """KL(D(student) || D(teacher)) on the teacher's leading classes, plus the same on the student's own.

    D is the softmax of all differences (z_m - z_n) / tau, m < n, among the k largest logits of the side that leads, in its
    order: not the probabilities are matched but how the leading classes stand to one another. The k of a token is the knee of
    its falling curve of probabilities softmax(z / tau), within [k_min, k_max], or one number for all. Classes that either side
    rules out (-inf) are left out, as if the vocabulary had not got them.

    Args:
        tau: Temperature, > 0; without a factor tau^2.
        k: How many classes lead, >= 3; None for the knee.
        k_min: Smallest k at a knee, >= 3: two classes have one difference, and a softmax of one number is always 1.
        k_max: Largest k at a knee, >= k_min.
        reverse: Whether KL takes the student first, as here, or the teacher, as in BiLD.

    Shapes: logits [B, C], or [B, L, V] with batch.mask [B, L], of at least three classes -> [B]. Temporaries take
    k_max (k_max - 1) / 2 numbers per token and side, or those of k.

    Raises:
        ShapeError: Student and teacher differ in their classes, or there are fewer than three.
        UsageError: An argument is out of range, or there is no teacher.

    Reference: Sun et al., 2026, Switch-KD, arXiv:2604.14629; Li et al., 2025, BiLD, arXiv:2406.13555, with k = 8 and
    reverse=False. Differs from the paper: the rule of the knee, on the 128 largest probabilities, and its limits are
    reconstructed. Which classes lead is held fixed. Logits that tie at the cut may lead or not.

    >>> DBiLD()
    DBiLD(tau=3, k=None, k_min=4, k_max=64, reverse=True)
    """

    needs = frozenset({"teacher"})
    says = ("tau", "k", "k_min", "k_max", "reverse")

    def __init__(self, tau: float = 3.0, k: int | None = None, *, k_min: int = 4, k_max: int = 64, reverse: bool = True) -> None:
        super().__init__()
        self.tau = positive(tau, "DBiLD: tau")
        self.k = None if k is None else whole(k, "DBiLD: k", least=3)
        self.k_min, self.k_max = whole(k_min, "DBiLD: k_min", least=3), whole(k_max, "DBiLD: k_max", least=3)
        if self.k_max < self.k_min:
            raise UsageError(f"DBiLD: k_max must be at least k_min, got k_min={k_min!r} and k_max={k_max!r}.")
        self.reverse = reverse

    def forward(self, views: Views) -> Tensor:
        """One value per sample, [B].

        Raises:
            ShapeError: Student and teacher differ in their classes, or there are fewer than three.
        """
        student, teacher = (full_precision(logits) for logits in both_logits(views, "DBiLD"))
        if student.shape[-1] < 3:
            raise ShapeError(f"DBiLD: at least 3 classes are needed, got {list(student.shape)}; use KD.")
        return token_mean(self.led_by(teacher, student, teacher) + self.led_by(student, student, teacher), views.batch.mask)

    def led_by(self, leader: Tensor, student: Tensor, teacher: Tensor) -> Tensor:
        """The divergence on the leader's classes, logits [..., C] -> [...]."""
        classes, possible = leader.shape[-1], (student != -torch.inf) & (teacher != -torch.inf)
        known, count = leader.detach().masked_fill(~possible, -torch.inf), possible.sum(-1)
        most = min(self.k_max if self.k is None else self.k, classes)
        ids = known.topk(most, dim=-1).indices
        if self.k is None:
            head = min(HEAD, classes)
            k = knee((known / self.tau).softmax(-1).topk(head, dim=-1).values, count.clamp(max=head))
            k = k.clamp(min(self.k_min, most), most)
        else:
            k = torch.full_like(ids[..., 0], most)
        k, ruled_out = k.minimum(count).clamp(min=2), ~possible.gather(-1, ids)  # the difference of two is 0 apart on its own
        sides = (logits.gather(-1, ids).masked_fill(ruled_out, 0) for logits in (student, teacher))
        log_q, log_p = (differences(values / self.tau, k) for values in sides)
        return forward_kl(log_q, log_p) if self.reverse else forward_kl(log_p, log_q)


def differences(values: Tensor, k: Tensor) -> Tensor:
    """Log softmax of all x_m - x_n, m < n < k: [..., K], int64 [...] -> [..., K (K - 1) / 2], -inf where n >= k."""
    first, second = torch.triu_indices(values.shape[-1], values.shape[-1], 1, device=values.device)
    apart = values[..., first] - values[..., second]
    return apart.masked_fill(second >= k.unsqueeze(-1), -torch.inf).log_softmax(-1)


def knee(falling: Tensor, count: Tensor) -> Tensor:
    """Where a falling curve lies deepest below the straight line from its first to its last point: [..., n] -> int64 [...].

    Args:
        falling: The curves.
        count: How many points of each there are, int64 [...]; the others are not looked at.
    """
    places, ends = torch.arange(falling.shape[-1], device=falling.device), (count - 1).clamp(min=0).unsqueeze(-1)
    last = falling.gather(-1, ends)
    span = falling[..., :1] - last
    y = (falling - last) / torch.where(span > 0, span, 1)
    x = places / ends.clamp(min=1).to(falling.dtype)
    return (1 - x - y).masked_fill(places > ends, -torch.inf).argmax(-1)
