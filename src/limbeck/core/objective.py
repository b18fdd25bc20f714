"""The algebra of terms: `KD(T=4) * 0.7 + CE() * 0.3` reads like the paper's formula."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from limbeck.core.checks import finite, of_kind
from limbeck.core.errors import ShapeError, UsageError
from limbeck.core.outputs import Views
from limbeck.core.shown import said
from limbeck.core.term import COLUMNS, Moment, Need, Scene, Term


class Objective(nn.Module):
    """A sum of terms with coefficients. Evaluates every term for every sample; who reduces, does it elsewhere and once.

    A term that needs labels is 0 for a sample that has none (a target of -1) and passes over such a token; the others take both
    as any other.

    Args:
        parts: (coefficient, term) pairs. Coefficients are finite numbers.

    Shapes: `forward` gives [K, B], one row per term, without the coefficients; `coefs` and `factors` are [K].

    Attributes:
        coefs: The user's coefficients.
        factors: What a balancer multiplied them by last; 1 where nobody balances.
    """

    coefs: Tensor
    factors: Tensor

    def __init__(self, parts: Sequence[tuple[float, Term]]) -> None:
        super().__init__()
        values = [finite(coef, f"{type(term).__name__}: its coefficient") for coef, term in parts]
        self.terms = nn.ModuleList([term for _, term in parts])
        self.register_buffer("coefs", torch.tensor(values, dtype=torch.float64), persistent=False)
        self.register_buffer("factors", torch.ones(len(values), dtype=torch.float64), persistent=False)

    @property
    def parts(self) -> list[tuple[float, Term]]:
        """The (coefficient, term) pairs."""
        return [(float(coef), term) for coef, term in zip(self.coefs, self.terms, strict=True) if isinstance(term, Term)]

    @property
    def names(self) -> list[str]:
        """One name per term, unique: `KD`, `CE`, `CE#2`."""
        kinds = [type(term).__name__ for term in self.terms]
        seen = [kinds[: i + 1].count(kind) for i, kind in enumerate(kinds)]
        return [kind if count == 1 else f"{kind}#{count}" for kind, count in zip(kinds, seen, strict=True)]

    @property
    def needs(self) -> frozenset[Need]:
        """All that any of the terms needs."""
        return frozenset().union(*(term.needs for _, term in self.parts))

    @property
    def coupled(self) -> bool:
        """Whether any term's value for a sample depends on other samples of the batch."""
        return any(term.coupled for _, term in self.parts)

    @property
    def unbuilt(self) -> list[str]:
        """Names of the terms whose parts have not been made yet."""
        return [name for name, (_, term) in zip(self.names, self.parts, strict=True) if term.builds and not term.built]

    @property
    def crosses(self) -> bool:
        """Whether student and teacher may answer for different classes, for all terms that look at the teacher."""
        return all(term.crosses for _, term in self.parts if "teacher" in term.needs)

    @property
    def remembers(self) -> bool:
        """Whether any term takes note of every step."""
        return any(term.remembers for _, term in self.parts)

    @property
    def written(self) -> bool:
        """Whether any term is for what a step has written, and so says nothing of the data's own samples."""
        return any(term.drawn is not None or term.needs & COLUMNS for _, term in self.parts)

    @property
    def deploys(self) -> bool:
        """Whether any term gives another net for use than the student."""
        return any(term.deploys for _, term in self.parts)

    @property
    def tunes(self) -> bool:
        """Whether any term chooses something on validation samples after training."""
        return any(term.tunes for _, term in self.parts)

    @property
    def labelled_only(self) -> bool:
        """Whether a sample without a label is of no use to any of the terms."""
        return all("targets" in term.needs for _, term in self.parts)

    def build(self, scene: Scene) -> None:
        """Have every term make its parts, those that have not yet; one that needs labels, from the samples that have one."""
        for _, term in self.parts:
            if term.builds and not term.built:
                term.build(scene.labelled() if "targets" in term.needs else scene)
                term.built = True

    def at(self, moment: Moment) -> None:
        """Tell every term where the training stands."""
        for _, term in self.parts:
            term.at(moment)

    def remember(self, views: Views) -> None:
        """Have the terms that want to take note of a step."""
        for _, term in self.parts:
            if term.remembers:
                term.remember(views)

    def deploy(self, student: nn.Module) -> nn.Module:
        """The net to be used after training.

        Raises:
            UsageError: Two terms each want another one.
        """
        maker = self._maker()
        return student if maker is None else maker.deploy(student)

    def answer(self, views: Views) -> Tensor:
        """The logits that the net to be used would give, differentiable in what is the student's.

        Raises:
            UsageError: Two terms each want another net.
        """
        maker = self._maker()
        return views.student.logits if maker is None else maker.answer(views)

    def tune(self, views: Views) -> None:
        """Have the terms choose on validation samples what only the net in use needs."""
        for _, term in self.parts:
            if term.tunes:
                term.tune(views)

    def _maker(self) -> Term | None:
        makers = [term for _, term in self.parts if term.deploys]
        if len(makers) > 1:
            names = ", ".join(type(term).__name__ for term in makers)
            raise UsageError(f"objective: {names} each change the net that is kept; use one of them.")
        return makers[0] if makers else None

    @property
    def student_taps(self) -> tuple[str, ...]:
        """All that the terms read from inside the student, each once."""
        return tuple(dict.fromkeys(name for _, term in self.parts for name in term.student_taps))

    @property
    def teacher_taps(self) -> tuple[str, ...]:
        """All that the terms read from inside the teacher, each once."""
        return tuple(dict.fromkeys(name for _, term in self.parts for name in term.teacher_taps))

    def forward(self, views: Views) -> Tensor:
        """Every term's value for every sample, [K, B].

        Raises:
            ShapeError: A term broke the contract and did not return one value per sample.
        """
        rows, known = [], views.batch.labelled
        filled = views if views.batch.targets is None else with_any_label(views)
        for name, (_, term) in zip(self.names, self.parts, strict=True):
            value = term(filled if "targets" in term.needs else views)
            if value.shape != (len(views.batch),):
                raise ShapeError(
                    f"{name} returned {list(value.shape)} for {len(views.batch)} samples; a term gives one value per sample, [B]."
                )
            rows.append(value if known is None or "targets" not in term.needs else value.where(known, 0))
        return torch.stack(rows)

    def per_sample(self, views: Views) -> Tensor:
        """The weighted sum over the terms, [B]: each sample's loss, as the balance stood last."""
        values: Tensor = self(views)
        coefs = (self.coefs * self.factors).to(values.dtype)
        return (coefs.unsqueeze(1) * values).sum(0)  # no matrix product: autocast would round it

    def __mul__(self, coef: float) -> Objective:
        return Objective([(own * coef, term) for own, term in self.parts])

    __rmul__ = __mul__

    def __add__(self, other: Term | Objective) -> Objective:
        return Objective([*self.parts, *as_objective(other).parts])

    def __repr__(self) -> str:
        return " + ".join(repr(term) if coef == 1 else f"{term!r} * {said(coef)}" for coef, term in self.parts)


def as_objective(loss: Term | Objective) -> Objective:
    """A lone term as the objective with coefficient 1.

    Raises:
        UsageError: It is neither a term nor an objective.
    """
    if isinstance(loss, Objective):
        return loss
    of_kind(loss, Term, "objective: it", "write terms with coefficients, such as KD(T=4) * 0.5 + CE() * 0.5")
    return Objective([(1.0, loss)])


def with_any_label(views: Views) -> Views:
    """The views with class 0 in the place of a label that is missing, for terms whose value there is not looked at.

    A token without a label does not count.
    """
    assert views.batch.targets is not None
    return replace(views, batch=replace(views.batch, targets=views.batch.targets.clamp(min=0), mask=views.batch.label_mask))
