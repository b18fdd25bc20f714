"""Adaptive explicit knowledge transfer, after Park and Lee (2024): a reconstruction."""

from typing import Literal, final, get_args

from torch import Tensor

from limbeck.core.checks import not_negative, one_of, positive
from limbeck.core.outputs import Views
from limbeck.core.term import Moment, Term
from limbeck.functional.divergences import softened, token_mean
from limbeck.functional.ramps import linear
from limbeck.functional.target_split import others_kl, own, target_kl
from limbeck.losses.sides import both_logits, fitting_labels

Mode = Literal["ratio_tckd", "ratio_ce"]


@final
class AEKT(Term):
    """min(epoch / warm_up, 1) T^2 (explicit gain L + implicit NCKD), gain = min(p_y / q_y, r_max)^gamma held fixed, per sample.

    p is the teacher's and q the student's distribution at T, y the label. L is TCKD, the KL between (p_y, 1 - p_y) and
    (q_y, 1 - q_y), in the mode "ratio_tckd", and -log q_y in "ratio_ce". The gain presses where the student is less sure of the
    label than the teacher. gamma = 0 in the first mode is DKD. A term that is told no moment is at full strength.

    Args:
        explicit: Weight of the part on the target, >= 0.
        implicit: Weight of NCKD, the KL among the other classes, >= 0.
        gamma: Power of the ratio, >= 0.
        r_max: Largest ratio, > 0: without it the gain has no bound as q_y tends to 0.
        T: Temperature, > 0.
        warm_up: Epochs over which the term grows linearly from 0, >= 0.
        mode: "ratio_tckd", which rests where the teacher's confidence is matched, or "ratio_ce", which never does.

    Shapes: logits [B, C] and labels [B], or [B, L, V] and [B, L] with batch.mask [B, L] -> [B]. With two classes NCKD is 0.

    Raises:
        ShapeError: Student and teacher differ in their classes, or logits and labels do not fit together.
        UsageError: An argument is out of range, or there is no teacher or no label.

    Reference: Park, Lee, 2024, arXiv:2409.01679. Differs from the paper: it is after AEKT and no reproduction. That the gain
    depends on the ratio of the target's probabilities is the paper's; the form of the loss, its defaults (those of DKD) and
    the bound are reconstructed.

    >>> AEKT(gamma=0.5)
    AEKT(explicit=1, implicit=8, gamma=0.5, r_max=5, T=4, warm_up=20, mode='ratio_tckd')
    """

    needs = frozenset({"teacher", "targets"})
    says = ("explicit", "implicit", "gamma", "r_max", "T", "warm_up", "mode")

    def __init__(
        self,
        explicit: float = 1.0,
        implicit: float = 8.0,
        *,
        gamma: float = 1.0,
        r_max: float = 5.0,
        T: float = 4.0,
        warm_up: float = 20.0,
        mode: Mode = "ratio_tckd",
    ) -> None:
        super().__init__()
        self.explicit = not_negative(explicit, "AEKT: explicit")
        self.implicit = not_negative(implicit, "AEKT: implicit")
        self.gamma = not_negative(gamma, "AEKT: gamma")
        self.r_max = positive(r_max, "AEKT: r_max")
        self.T = positive(T, "AEKT: T")
        self.warm_up = not_negative(warm_up, "AEKT: warm_up")
        self.mode = one_of(mode, get_args(Mode), "AEKT: mode")
        self._strength = 1.0

    def at(self, moment: Moment) -> None:
        """Warm up."""
        self._strength = linear(moment.epoch, self.warm_up)

    def forward(self, views: Views) -> Tensor:
        """One value per sample, [B]."""
        (student, teacher), targets = both_logits(views, "AEKT"), fitting_labels(views, "AEKT")

        def parts(log_p: Tensor, log_q: Tensor) -> Tensor:
            loss = target_kl(log_p, log_q, targets) if self.mode == "ratio_tckd" else -own(log_q, targets)
            gain = self.gain(log_p, log_q, targets)
            return self.explicit * gain * loss + self.implicit * others_kl(log_p, log_q, targets)

        return self._strength * token_mean(softened(parts, student, teacher, self.T), views.batch.mask)

    def gain(self, log_p: Tensor, log_q: Tensor, targets: Tensor) -> Tensor:
        """min(p_y / q_y, r_max)^gamma without a gradient, of log-probabilities [..., C] -> [...]."""
        ratio = (own(log_p, targets) - own(log_q, targets)).detach().exp()
        return ratio.clamp(max=self.r_max) ** self.gamma
