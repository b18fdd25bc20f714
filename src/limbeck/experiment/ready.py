"""Teachers where a run would build a net: those that answer as they are, stored or served, and the mixtures of a chain."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final, get_args

from torch import nn

from limbeck.align.taps import Tapped
from limbeck.core.batch import Batch
from limbeck.core.errors import UsageError
from limbeck.evaluation.cost import flops, parameters
from limbeck.models.spec import Architecture, DataSpec, Kind
from limbeck.teachers.aligned import Aligned
from limbeck.teachers.ensemble import Ensemble
from limbeck.teachers.single import Single
from limbeck.teachers.teacher import Teacher


@final
@dataclass(frozen=True, repr=False)
class Ready(Architecture):
    """A teacher in the place of a net: nothing is built.

    Args:
        teacher: Whoever answers.
    """

    takes: ClassVar[tuple[Kind, ...]] = get_args(Kind)

    teacher: Teacher

    def make(self, spec: DataSpec) -> nn.Module:
        """The teacher itself."""
        return self.teacher

    def __repr__(self) -> str:
        return repr(self.teacher)


@final
@dataclass(frozen=True, repr=False)
class Anchored(Architecture):
    """What teaches a later generation: the first one's teacher and the net before, as `training.generations` mixes them.

    Args:
        base: The teacher of the first generation.
        student: The net of every generation.
        anchor: The share of `base`, in (0, 1).
        combine: Which mean, see `Ensemble`.
    """

    takes: ClassVar[tuple[Kind, ...]] = get_args(Kind)

    base: Architecture
    student: Architecture
    anchor: float
    combine: str

    def make(self, spec: DataSpec) -> nn.Module:
        """Both, freshly built."""
        return self.joined(self.base.build(spec), self.student.build(spec))

    def joined(self, base: nn.Module, before: nn.Module) -> Ensemble:
        """The mixture of these two."""
        return Ensemble([as_teacher(base), Single(before)], self.combine, weights=[self.anchor, 1 - self.anchor])


@final
@dataclass(frozen=True, repr=False)
class AlignedPair(Architecture):
    """A teacher that was aligned to preferences and what it was before, as nets: `Aligned` is the same for teachers.

    Neither is trained: both are pretrained, or read together from `teacher_weights`.

    Args:
        after: The aligned net.
        before: Its reference.

    Reference: Gao et al., 2025, arXiv:2502.17927, the DPO and the reference teacher. Differs from the paper: no.

    >>> from limbeck.models.gpt import GPT
    >>> AlignedPair(GPT(width=64), GPT(width=64))
    AlignedPair(after=GPT(width=64), before=GPT(width=64))
    """

    takes: ClassVar[tuple[Kind, ...]] = get_args(Kind)

    after: Architecture
    before: Architecture

    def make(self, spec: DataSpec) -> nn.Module:
        """Both, freshly built."""
        return Aligned(Single(self.after.build(spec)), Single(self.before.build(spec)))


def is_given(teacher: Architecture) -> bool:
    """Whether the teacher is one that no run trains."""
    return isinstance(teacher, Ready | AlignedPair)


def as_teacher(model: nn.Module, *, trained: bool = False) -> Teacher:
    """The model as a teacher; one that is a teacher already, as it is.

    Raises:
        UsageError: It is to be trained, but has no net.
    """
    if not isinstance(model, Teacher):
        return Single(model, trained=trained)
    if trained:
        raise UsageError(f"step: it updates the teacher, but {model!r} has no net to update; name a net, or Student().")
    return model


def answering(model: nn.Module) -> nn.Module:
    """The model, to be called with a batch."""
    return model if isinstance(model, Teacher) else Tapped(model)


def gives_logits(model: nn.Module | None) -> bool:
    """Whether there is a model and all of its logits are known: figures and columns that need them are left out otherwise."""
    return model is not None and (not isinstance(model, Teacher) or "logits" in model.offers)


def cost_of(model: nn.Module, batch: Batch) -> Mapping[str, int | None]:
    """Parameters, and FLOPs of a sample's forward pass; None where a teacher does not say."""
    if isinstance(model, Teacher) and not isinstance(model, Single):
        return model.cost
    tapped = model if isinstance(model, Tapped) else Tapped(model)
    return {"parameters": parameters(tapped.model), "flops": flops(tapped, batch)}


def spoken_cost(cost: Mapping[str, int | None]) -> str:
    """A cost in words."""
    words = {"parameters": "parameters", "flops": "FLOPs a sample"}
    return ", ".join(f"{cost[name]:,} {said}" for name, said in words.items() if cost[name]) or "its size is not known"
