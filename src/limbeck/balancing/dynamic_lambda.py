"""A balance of task loss and distillation loss that follows their gradients. Pure functions of inner products, and a thin class.

Both forms step along u(x) = a + x e, with a the gradient of the task loss, b that of the distillation loss, and x = lambda:
form A is L_t + x L_d, e = b; form B is (1 - x) L_t + x L_d, e = b - a. A reference loss with gradient c judges the step.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, final, get_args

import torch
from torch import Tensor

from limbeck.balancing.balancer import Balancer, Level
from limbeck.core.checks import fraction, not_negative, one_of, positive
from limbeck.core.errors import UsageError
from limbeck.core.objective import Objective
from limbeck.core.shown import shown

Form = Literal["A", "B"]
Reference = Literal["task", "mix", "val"]
Rule = Literal["closest", "angle", "target", "mgda"]

NOTHING: Mapping[Form, float] = {"A": 1e-24, "B": 1e-14}
"""|e|^2 below this share of the larger gradient's is taken for 0. In form B it is a difference of inner products, and what is
left below 1e-14 of them is their rounding."""

DISTILS = frozenset({"teacher", "teacher_features"})
"""What a term needs that belongs to the distillation loss."""

BOUNDS: Mapping[Form, tuple[float, float]] = {"A": (0.0, 10.0), "B": (0.05, 0.95)}


@dataclass(frozen=True)
class Products:
    """What the rules are made of: the inner products of a, b, c and the direction e.

    Args:
        aa: |a|^2; likewise the others.
        base: (c - a).e / |e|^2, the lambda of the reference: 0 for `task`, mu for `mix`.
    """

    aa: float
    bb: float
    ab: float
    ca: float
    cb: float
    ae: float
    ee: float
    ce: float
    base: float

    def reduction(self, x: float) -> float:
        """|u(x)|^2: by how much a small step of size 1 lowers the loss that it steps along."""
        return self.aa + 2 * x * self.ae + x * x * self.ee

    def cosine(self, x: float) -> float:
        """The cosine of c and u(x), times |c|; 0 where u(x) is 0."""
        square = self.reduction(x)
        return (self.ca + x * self.ce) / math.sqrt(square) if square > 0 else 0.0


def products(gramian: Tensor, form: Form, reference: Reference, mu: float) -> Products:
    """The products, from the Gramian of (a, b), or of (a, b, c) where the reference is `val`.

    Args:
        gramian: [2, 2], or [3, 3].
        form: Which direction e is.
        reference: Which loss judges.
        mu: The lambda of the reference `mix`.
    """
    aa, ab, bb = float(gramian[0, 0]), float(gramian[0, 1]), float(gramian[1, 1])
    ae, ee = (ab, bb) if form == "A" else (ab - aa, aa - 2 * ab + bb)
    if reference == "val":
        ca, cb = float(gramian[2, 0]), float(gramian[2, 1])
    else:
        of_a, of_b = (1.0, 0.0) if reference == "task" else ((1.0, mu) if form == "A" else (1 - mu, mu))
        ca, cb = of_a * aa + of_b * ab, of_a * ab + of_b * bb
    ce = cb if form == "A" else cb - ca
    base = {"task": 0.0, "mix": mu, "val": (ce - ae) / ee if ee > 0 else 0.0}[reference]
    return Products(aa, bb, ab, ca, cb, ae, ee, ce, base)


def closest(p: Products, kappa: float) -> float:
    """The x whose u(x) is closest to c / kappa: (c.e / kappa - a.e) / |e|^2 = base + (1 / kappa - 1) c.e / |e|^2.

    For a reference loss with curvature M in every direction and a step of size kappa / M, its largest decrease.
    """
    return p.base + (1 / kappa - 1) * p.ce / p.ee


def angle(p: Products, form: Form, lo: float, hi: float) -> float:
    """The x whose u(x) has the smallest angle with c; where c is outside the cone of a and b, the end with the smaller angle."""
    of_b, of_a = p.cb * p.aa - p.ca * p.ab, p.ca * p.bb - p.cb * p.ab
    if of_a > 0 and of_b > 0:
        return of_b / of_a if form == "A" else of_b / (of_a + of_b)
    return hi if p.cosine(hi) > p.cosine(lo) else lo


def target(p: Products, rho: float, mu: float) -> float:
    """The larger x with |u(x)|^2 = rho |u(mu)|^2: rho times the total reduction of mu; where none has it, the x of the least."""
    return (math.sqrt(max(p.ae**2 - p.ee * (p.aa - rho * p.reduction(mu)), 0.0)) - p.ae) / p.ee


def smallest(p: Products) -> float:
    """The x of the least |u(x)|: in form B the minimum-norm point, where u.a = u.b = |u|^2."""
    return -p.ae / p.ee


def unharmed(p: Products, x: float, theta: float) -> float:
    """At most x, such that a.u >= theta |a|^2: to first order the task loss still falls at a share theta of its own speed."""
    return min(x, (1 - theta) * p.aa / -p.ae) if p.ae < 0 else x


@final
class DynamicLambda(Balancer):
    """Lambda between task loss and distillation loss, anew at every step, from the sizes and the angle of their gradients.

    The terms that need a teacher are together the distillation loss L_d, all others the task loss L_t, each with its own
    coefficient. Write `KD(T=4) + CE()` and give the usual share of the distillation loss as `mu`. The factors are 1 and lambda
    (form A), or 1 - lambda and lambda (form B), constants for the backward pass.

    Args:
        form: `A`, L_t + lambda L_d, or `B`, (1 - lambda) L_t + lambda L_d.
        reference: The loss that judges: the `task` loss; `mix`, the total at lambda = mu; `val`, the label loss on query samples.
        mu: Where lambda starts, and the lambda of `mix`; in [0, 1] for form B, >= 0 for form A.
        kappa: Step size times curvature, in (0, 1]; with `mix` and 1 lambda stays at mu.
        lo: Smallest lambda; None for 0 (A) or 0.05 (B).
        hi: Largest lambda; None for 10 (A) or 0.95 (B).
        ema: What the moving averages of the inner products keep of themselves at each step, in [0, 1).
        no_harm: In [0, 1): the task loss falls at least at this share of its own speed; None for no such guard.
        level: Whose gradients: those of the student's "logits", of its "last_layer", or of "all" of it.
        rule: `closest` to c / kappa; smallest `angle` with c (for `val`); `target`, rho times the reduction at mu; `mgda`, the
            minimum-norm point (form B). The last two ask no reference.
        rho: Of the rule `target`, > 0.

    Raises:
        UsageError: An argument is out of its range, or two do not go together.

    Reference: S. Kim et al., 2025, arXiv:2505.06270. Differs from the paper: it is an analysis without an algorithm, and its
    equations could not be read. Its own are the statements that the reduction is quadratic in lambda and ruled by both norms and
    the angle; rules, references and guards are this project's reconstruction (docs/methods/dynamic-lambda.md).

    >>> DynamicLambda(mu=0.9)
    DynamicLambda(form='B', reference='mix', mu=0.9, kappa=0.5, rule='closest')
    """

    def __init__(
        self,
        form: Form = "B",
        reference: Reference = "mix",
        *,
        mu: float = 0.5,
        kappa: float = 0.5,
        lo: float | None = None,
        hi: float | None = None,
        ema: float = 0.9,
        no_harm: float | None = None,
        level: Level = "last_layer",
        rule: Rule = "closest",
        rho: float = 1.0,
    ) -> None:
        one_of(form, get_args(Form), "DynamicLambda: form")
        one_of(reference, get_args(Reference), "DynamicLambda: reference")
        one_of(rule, get_args(Rule), "DynamicLambda: rule")
        one_of(level, ("logits", "last_layer", "all"), "DynamicLambda: level")
        self.form, self.reference, self.level, self.rule = form, reference, level, rule
        self.mu = (fraction if form == "B" else not_negative)(mu, "DynamicLambda: mu")
        self.kappa, self.rho = positive(kappa, "DynamicLambda: kappa"), positive(rho, "DynamicLambda: rho")
        self.lo, self.hi = (
            (fraction if form == "B" else not_negative)(usual if given is None else given, f"DynamicLambda: {name}")
            for given, usual, name in zip((lo, hi), BOUNDS[form], ("lo", "hi"), strict=True)
        )
        self.ema = fraction(ema, "DynamicLambda: ema")
        self.no_harm = None if no_harm is None else fraction(no_harm, "DynamicLambda: no_harm")
        self._check_together()
        self.needs_queries = reference == "val"
        size = 3 if self.needs_queries else 2
        self.moments, self.count = torch.zeros(size, size, dtype=torch.float64), 0
        self.lmbda = min(max(self.mu, self.lo), self.hi)
        self._figures: dict[str, float] = {}

    def _check_together(self) -> None:
        wrong = {
            "kappa must be at most 1": self.kappa > 1,
            "ema must be below 1": self.ema == 1,
            "no_harm must be below 1": self.no_harm == 1,
            "lo must not be above hi": self.lo > self.hi,
            "rule='angle' needs a loss of its own to judge by; use reference='val'": self.rule == "angle"
            and self.reference != "val",
            "rule='mgda' is of form 'B'": self.rule == "mgda" and self.form != "B",
            "level='logits' sees training samples only; use reference='val' with 'last_layer' or 'all'": self.level == "logits"
            and self.reference == "val",
        }
        for what, is_so in wrong.items():
            if is_so:
                raise UsageError(f"DynamicLambda: {what}.")

    def start(self, objective: Objective) -> Tensor:
        """Tell the two losses apart; the factors at the first lambda.

        Raises:
            UsageError: One of the two is missing.
        """
        distils = torch.tensor([bool(term.needs & DISTILS) for _, term in objective.parts])
        if distils.all() or not distils.any():
            raise UsageError(
                f"DynamicLambda: balances terms that need a teacher against others, but the objective is {objective!r}; "
                "write one such as KD(T=4) + CE()."
            )
        self.distils, self.sides = distils, torch.stack([~distils, distils]).double()
        if self.needs_queries:
            self.sides = torch.block_diag(self.sides, torch.ones(1, 1))  # type: ignore[no-untyped-call]
        return self._factors()

    def factors(self, losses: Tensor, gramian: Tensor | None) -> Tensor:
        """Move lambda by this step's inner products, if there are any; the factors, [K]."""
        if gramian is not None and bool(torch.isfinite(gramian).all()):
            self._follow(gramian.cpu())
        return self._factors().to(losses.device)

    def _factors(self) -> Tensor:
        of_task, of_distils = torch.tensor([1.0 if self.form == "A" else 1 - self.lmbda, self.lmbda], dtype=torch.float64)
        return torch.where(self.distils, of_distils, of_task)

    def _follow(self, gramian: Tensor) -> None:
        """Averages, rule and guards: of the inner products and not of lambda, since the mean of noisy ratios is biased."""
        now = self.sides @ gramian @ self.sides.T
        self.count += 1
        self.moments = self.ema * self.moments + (1 - self.ema) * now
        mean = self.moments / (1 - self.ema**self.count)
        self.lmbda, guard = self.choose(products(mean, self.form, self.reference, self.mu))
        task, distil = float(now[0, 0].sqrt()), float(now[1, 1].sqrt())
        self._figures = {
            "lambda": self.lmbda,
            "task_gradient": task,
            "distillation_gradient": distil,
            "gradient_cosine": float(now[0, 1]) / (task * distil) if task * distil > 0 else 0.0,
            "lambda_guard": float(guard),
        }

    def choose(self, p: Products) -> tuple[float, int]:
        """Lambda, and the guard that had the last word: 0 none, 1 no direction (lambda as before), 2 `no_harm`, 3 lo or hi."""
        if not p.ee > NOTHING[self.form] * max(p.aa, p.bb):
            return self.lmbda, 1
        wanted = {
            "closest": lambda: closest(p, self.kappa),
            "angle": lambda: angle(p, self.form, self.lo, self.hi),
            "target": lambda: target(p, self.rho, self.mu),
            "mgda": lambda: smallest(p),
        }[self.rule]()
        x = wanted if self.no_harm is None else unharmed(p, wanted, self.no_harm)
        kept = min(max(x, self.lo), self.hi)
        return kept, 3 if kept != x else 2 if x != wanted else 0

    def figures(self) -> dict[str, float]:
        """Lambda, both gradients' sizes and the cosine of their angle at this step, and the guard (see `choose`)."""
        return self._figures

    def state(self) -> dict[str, Tensor]:
        """The moving averages, how many steps are in them, and lambda."""
        return {
            "moments": self.moments,
            "count": torch.tensor(self.count),
            "lambda": torch.tensor(self.lmbda, dtype=torch.float64),
        }

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `state` gave."""
        self.moments, self.count, self.lmbda = state["moments"].cpu(), int(state["count"]), float(state["lambda"])

    def __repr__(self) -> str:
        low, high = BOUNDS[self.form]
        bounds = {"lo": None if self.lo == low else self.lo, "hi": None if self.hi == high else self.hi}
        return shown(self, "form", "reference", "mu", "kappa", "rule", **bounds)
