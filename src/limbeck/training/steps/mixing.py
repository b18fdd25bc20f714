"""Any step, on samples that a mixture of domains chooses (DDK, 2024)."""

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any, final

import torch
from torch import Tensor

from limbeck.core.batch import Batch
from limbeck.core.errors import RunError, UsageError
from limbeck.core.outputs import Outputs
from limbeck.data.domains import Domains
from limbeck.data.loader import Loader
from limbeck.engine.engine import Engine
from limbeck.influence.restoring import evaluating
from limbeck.influence.task import label_loss_of
from limbeck.mixtures.mixture import DomainLosses, Mixture
from limbeck.training.training import Record, Training, Update

ROWS = 64
"""Query samples that a net answers for together."""


@final
class Mixing:
    """Takes another step, and after every `mixture.every` of them has the mixture choose the domains' shares anew.

    Losses are those of the query set, of the net that would be kept and of the teacher, in evaluation mode. The loader must
    draw by domain: `Loader(..., sampler=Domains(source, rows, seed=0, every=mixture.every))`.

    Args:
        step: Who is updated.
        mixture: The shares.
    """

    def __init__(self, step: Update, mixture: Mixture) -> None:
        self.step, self.mixture = step, mixture
        self.trains_teacher, self.writes = step.trains_teacher, step.writes
        self.loader: Loader | None = None
        self.groups: Tensor | None = None
        self.taught: Tensor | None = None

    def prepare(self, training: Training, loader: Loader, *, resumed: bool) -> None:
        """See that the run can be mixed, choose the first shares, and get the step ready.

        Raises:
            UsageError: It cannot.
        """
        self.loader, self.taught = loader, None
        domains = self._domains()
        if self.mixture.needs_losses:
            self._check(training)
            self.groups = groups_of(training, loader)
            if self.mixture.every >= training.steps:
                warnings.warn(
                    f"{self.mixture!r}: the shares of the domains stay as they begin, since the run has {training.steps} steps; "
                    "take a smaller every.",
                    stacklevel=2,
                )
        if not resumed:
            domains.begin(self.mixture.start(domains.sizes, self._losses(training)))
        begun = domains.state()
        self.step.prepare(training, loader, resumed=resumed)
        domains.load_state(begun)  # a step that trains in advance has drawn already

    def __call__(self, training: Training, batch: Batch) -> Record:
        """The step, then new shares where a stretch of batches has ended; figures are of what this batch was drawn by."""
        assert self.loader is not None
        domains, number = self._domains(), training.number
        by_domain = {"share": domains.shares, **self.mixture.figures()}
        figures = {
            f"{what}_{name}": value
            for what, values in by_domain.items()
            for name, value in zip(domains.names, values.tolist(), strict=True)
        }
        record = self.step(training, batch)
        if (number + 1) % domains.every == 0:
            renewed = self.mixture.renew(self._losses(training))
            domains.turn(number // domains.every, domains.every * self.loader.batch_size, renewed)
        return replace(record, figures={**record.figures, **figures})

    def state(self) -> dict[str, Any]:
        """The shares, how far the domains' streams are, the mixture's own state, the teacher's losses, and the step's state."""
        return {
            "of": [type(self.step).__name__, type(self.mixture).__name__],
            "domains": self._domains().state(),
            "mixture": self.mixture.state(),
            "taught": self.taught,
            "step": self.step.state(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Take back what `state` gave.

        Raises:
            ValueError: It is the state of another step or mixture.
        """
        own = [type(self.step).__name__, type(self.mixture).__name__]
        if state["of"] != own:
            raise ValueError(f"it is one of {', '.join(state['of'])}, not of {', '.join(own)}")
        self._domains().load_state(state["domains"])
        self.mixture.load_state(state["mixture"])
        self.taught = state["taught"]
        self.step.load_state(state["step"])

    def _domains(self) -> Domains:
        """What draws the batches.

        Raises:
            UsageError: It does not draw by domain, or in other stretches than the mixture's.
        """
        assert self.loader is not None
        sampler = self.loader.sampler
        if not isinstance(sampler, Domains) or sampler.every != self.mixture.every:
            raise UsageError(
                f"Mixing: {self.mixture!r} needs batches that are drawn by domain; pass sampler=Domains(source, rows, seed=..., "
                f"every={self.mixture.every}) to the Loader."
            )
        return sampler

    def _check(self, training: Training) -> None:
        """See that losses can be measured and compared.

        Raises:
            UsageError: There is no teacher that gives all logits, no query set, or the vocabularies differ.
        """
        who, teacher, queries = repr(self.mixture), training.distiller.teacher, training.queries
        if teacher is None or "logits" not in teacher.offers:
            raise UsageError(f"{who}: the teacher's loss is compared, so it must give all logits; pass teacher=Single(model).")
        if queries is None or not len(queries):
            raise UsageError(f"{who}: the lag is that on the query set, but the run has none; pass queries=... to fit.")
        few = queries.take(slice(0, 1))
        with torch.no_grad(), evaluating(training.distiller.student):
            sides: list[Outputs] = [training.distiller.student(few), teacher(few)]
        if sides[0].classes != sides[1].classes:
            raise UsageError(
                f"{who}: the student answers for {sides[0].classes} and the teacher for {sides[1].classes} classes, so that "
                "their perplexities cannot be compared; take a pair with one vocabulary."
            )

    def _losses(self, training: Training) -> DomainLosses | None:
        """Both sides' losses now; the teacher's are kept where no step moves it.

        Raises:
            RunError: The student's are NaN or infinite.
        """
        if not self.mixture.needs_losses:
            return None
        distiller, count = training.distiller, len(self._domains().names)
        assert training.queries is not None
        assert self.groups is not None
        teacher = distiller.teacher
        assert teacher is not None

        def taught(batch: Batch) -> Tensor:
            outputs: Outputs = teacher(batch)
            return label_loss_of(outputs.logits, batch)

        def learnt(batch: Batch) -> Tensor:
            return distiller.task().query_loss(distiller.student, batch)

        with torch.no_grad(), evaluating(distiller.student), training.engine.autocast():
            student = domain_losses(learnt, training.queries, self.groups, count, training.engine)
            if self.taught is None or self.trains_teacher:
                self.taught = domain_losses(taught, training.queries, self.groups, count, training.engine)
        if not bool(torch.isfinite(student).all()):
            raise RunError(
                f"training: the student's loss on a domain became NaN or infinite at step {training.number}; use a smaller "
                "learning rate, or clip."
            )
        return DomainLosses(student, self.taught)

    def __repr__(self) -> str:
        return f"Mixing({self.step!r}, {self.mixture!r})"


def groups_of(training: Training, loader: Loader) -> Tensor:
    """The domain of each query sample, int64 [Q].

    Raises:
        UsageError: A domain has none.
    """
    source, queries = loader.source, training.queries
    assert source.drawn_by is not None
    assert queries is not None
    own, names = source.drawn_by
    groups = own[queries.index.cpu()]
    sizes = torch.bincount(groups, minlength=len(names))
    if not bool(sizes.all()):
        name = names[int((sizes == 0).nonzero()[0])]
        raise UsageError(f"{source.name}: domain '{name}' has no sample in the query set to measure on; take a larger query set.")
    return groups.to(queries.index.device)


def domain_losses(losses: Callable[[Batch], Tensor], queries: Batch, groups: Tensor, count: int, engine: Engine) -> Tensor:
    """The mean loss on each of `count` domains, float64 [G] on the CPU: of a sample, for language of a counted token.

    Args:
        losses: Gives the losses of samples, [B].
        queries: The same samples in every process; each goes over its part.
        groups: int64 [Q], the domain of each.
        count: G.
        engine: The machine.
    """
    sums = torch.zeros(2, count, dtype=torch.float64, device=groups.device)
    own = torch.arange(engine.rank, len(queries), engine.processes, device=groups.device)
    for rows in torch.split(own, ROWS) if len(own) else ():
        batch = queries.take(rows)
        found, amount = losses(batch).double(), torch.ones(len(rows), dtype=torch.float64, device=groups.device)
        mask = batch.label_mask
        if batch.targets is not None and batch.targets.dim() == 2 and mask is not None:
            amount = mask.sum(1).double()
        sums[0].index_add_(0, groups[rows], found * amount)
        sums[1].index_add_(0, groups[rows], amount)
    sums = engine.gather(sums.unsqueeze(0)).sum(0).cpu()
    return sums[0] / sums[1]
