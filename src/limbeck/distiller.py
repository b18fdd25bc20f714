"""Puts student, teacher, objective, weights and balance together. Knows of no loop, no optimiser and no file.

Just over 300 lines: what is put together here is also tried out here before any work.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from limbeck.align.taps import Tapped, classifier_of
from limbeck.balancing.balancer import Balancer
from limbeck.balancing.gradients import gramian, with_gradient
from limbeck.balancing.static import Static
from limbeck.core.batch import UNLABELLED, Batch
from limbeck.core.checks import of_kind, one_of
from limbeck.core.errors import ShapeError, UsageError
from limbeck.core.objective import Objective, as_objective
from limbeck.core.outputs import Outputs, Views
from limbeck.core.term import COLUMNS, Scene, Term
from limbeck.data.everyone import Everyone
from limbeck.data.loader import Loader, whole
from limbeck.influence.restoring import modes_restored, statistics_untouched
from limbeck.influence.task import Distillation, Forward
from limbeck.teachers.offers import check_classes, check_offers
from limbeck.teachers.teacher import Teacher
from limbeck.weighting.uniform import Uniform
from limbeck.weighting.weighting import Weighting

ROWS = 256
"""Samples that a net answers for together where many are gone over."""


@dataclass(frozen=True)
class Loss:
    """A batch's loss, whole and in its parts.

    Args:
        total: The scalar to differentiate.
        values: [K, B], each term for each sample, without coefficients and weights.
        weights: [B].
    """

    total: Tensor
    values: Tensor
    weights: Tensor


@final
class Distiller(nn.Module):
    """L = mean_i w_i sum_k c_k l_k,i: who learns, from whom, on what terms, and how much each sample counts.

    Args:
        student: Any module whose forward returns logits.
        teacher: A `Teacher` such as Single(model); None where no term needs one.
        objective: A term or a sum of terms with coefficients.
        weighting: One weight per sample; all 1 where none is named.
        balancer: Factors on the coefficients; all 1 where none is named.
        per: What counts alike in a batch of language: every `sample`, with the mean over its tokens, or every counted `token`.

    Raises:
        UsageError: A part is of another kind, or a term needs a teacher and there is none, or needs more of it than it offers.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: Teacher | None,
        objective: Term | Objective,
        *,
        weighting: Weighting | None = None,
        balancer: Balancer | None = None,
        per: str = "sample",
    ) -> None:
        super().__init__()
        self.per = one_of(per, ("sample", "token"), "Distiller: per")
        self.objective = as_objective(objective)
        needing = [type(term).__name__ for _, term in self.objective.parts if "teacher" in term.needs]
        if teacher is None and needing:
            raise UsageError(
                f"Distiller: {', '.join(needing)} compare with a teacher, but none was given; pass teacher=Single(model)."
            )
        if teacher is not None:
            of_kind(teacher, Teacher, "Distiller: teacher", "wrap a net, teacher=Single(net)")
            check_offers(teacher, self.objective)
        self.student = Tapped(student, self.objective.student_taps)
        self.teacher = teacher
        if teacher is not None and self.objective.teacher_taps:
            teacher.tap(self.objective.teacher_taps)
        self.weighting = Uniform() if weighting is None else weighting
        of_kind(self.weighting, Weighting, "Distiller: weighting", "take one such as InfluenceWeighting()")
        self.balancer = Static() if balancer is None else balancer
        of_kind(self.balancer, Balancer, "Distiller: balancer", "take one such as Uncertainty()")
        self.objective.factors = self.balancer.start(self.objective).to(self.objective.coefs)

    def build(self, loader: Loader) -> "Distiller":
        """Have the terms make their projectors, heads and banks, for the shapes of these nets and this data.

        Call it before the optimiser is made, with `trained()` as its parameters. Terms that need nothing are left as they are.

        Args:
            loader: The training batches to come.
        """
        if not self.objective.unbuilt:
            return self
        device = next(self.student.parameters()).device
        few = whole(loader.source, loader.rows[:4], loader.labels).to(device)
        with modes_restored(self.student, training=False), torch.no_grad():
            views = Views(self.student(few).detach(), self.teach(few), few)

        def taught() -> Iterator[tuple[Batch, Outputs]]:
            for batch in Everyone(loader.source, loader.rows, loader.labels, most=ROWS, device=device):
                answer = self.teach(batch)
                yield batch, Outputs(torch.empty(len(batch), 0)) if answer is None else answer

        classifier = None if self.teacher is None else self.teacher.classifier()
        self.objective.build(Scene(views, loader.source.outputs, loader.rows, loader.labels, taught, classifier))
        self.objective.to(device)
        return self

    def trained(self) -> list[nn.Parameter]:
        """What the optimiser is to update: the student's parameters and those of the terms' own parts."""
        own = [part for part in self.student.parameters() if part.requires_grad]
        return [*own, *(part for _, term in self.objective.parts for part in term.trained())]

    def deployed(self) -> Tapped:
        """The net to be used after training: the student without what only training needed, and with what inference needs."""
        return Tapped(self.objective.deploy(self.student.model)) if self.objective.deploys else self.student

    def tune(self, validation: Batch) -> None:
        """Have the terms choose on validation samples what only the net in use needs; nothing else changes."""
        if not self.objective.tunes:
            return
        with modes_restored(self.student, training=False), torch.no_grad():
            parts: list[Outputs] = [
                self.student(validation.take(rows)) for rows in torch.split(torch.arange(len(validation)), ROWS)
            ]
        self.objective.tune(Views(Outputs.concat(parts), None, validation))

    def teach(self, batch: Batch) -> Outputs | None:
        """What the teacher says of the batch, detached; None where no term asks."""
        if self.teacher is None or "teacher" not in self.objective.needs:
            return None
        outputs: Outputs = self.teacher(batch)
        return outputs.detach()

    def task(self, teacher: Forward | None = None) -> Distillation:
        """The losses that influence is about.

        Args:
            teacher: Whoever answers in the place of the teacher, where its answers are at hand.
        """
        answers = self.teacher if teacher is None else teacher
        return Distillation(self.objective, answers if "teacher" in self.objective.needs else None)

    def loss(
        self,
        views: Views,
        weights: Tensor,
        average: Callable[[Tensor], Tensor] | None = None,
        reference: Tensor | None = None,
    ) -> Loss:
        """The one place where samples, terms and coefficients are summed up.

        Args:
            views: Both sides' outputs.
            weights: [B], detached.
            average: The mean of a tensor over all processes, so that all balance alike; None for one process.
            reference: The scalar by which a balancer with `needs_queries` judges: the label loss on queries, with its graph.
        """
        values = self.objective(views)
        per_term = self.objective.coefs.to(values.dtype) * (values * weights.to(values.dtype)).mean(1)
        factors, total = self._balanced(per_term, views, average, reference)
        self.objective.factors = factors.to(self.objective.coefs)
        return Loss(total, values, weights)

    def amounts(self, batch: Batch, gather: Callable[[Tensor], Tensor] = lambda part: part) -> Tensor | None:
        """How much each sample counts by its length, [B], 1 in the mean over the samples of all processes; None: all alike.

        With per="token" this is n_i / mean(n), n_i its counted tokens: mean_i n_i / mean(n) l_i = (sum over tokens) / (sum n).
        Where all terms need labels, only tokens that have one are counted.

        Args:
            batch: The whole batch of this process, however it will be cut.
            gather: Puts a tensor of all processes together.
        """
        mask = batch.label_mask if self.objective.labelled_only else batch.mask
        if self.per == "sample" or mask is None:
            return None
        counts = mask.sum(1).double()
        return counts / gather(counts).mean().clamp(min=1 / len(counts))

    @contextmanager
    def unbalanced(self) -> Iterator[None]:
        """Losses taken inside leave no trace in the balancer: only the losses of steps that are made count."""
        kept, factors = self.balancer.state(), self.objective.factors
        try:
            yield
        finally:
            self.balancer.load_state(kept)
            self.objective.factors = factors

    def _balanced(
        self, per_term: Tensor, views: Views, average: Callable[[Tensor], Tensor] | None, reference: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The balancer's factors, [K], and sum_k f_k times the terms' losses."""
        level, judged = self.balancer.level, self.balancer.needs_queries
        losses = per_term.detach() if average is None else average(per_term.detach())
        if level == "none" or not per_term.requires_grad or (judged and reference is None):
            factors = self.balancer.factors(losses, None).detach()
            return factors, (factors.to(per_term.dtype) * per_term).sum()
        if level == "logits":
            where: list[Tensor] = [views.student.logits]
        else:
            part = classifier_of(self.student.model) if level == "last_layer" else self.student
            where = [own for own in part.parameters() if own.requires_grad]
        whole, count = level == "all", len(per_term)
        leaves = self.trained() if whole else where  # the student's come first
        found = [
            torch.autograd.grad(loss, leaves, retain_graph=not whole or number < count, allow_unused=True)
            for number, loss in enumerate(per_term, 1)
        ]
        compared = [gradient[: len(where)] for gradient in found]
        if judged and reference is not None:
            compared.append(torch.autograd.grad(reference, where, allow_unused=True))
        factors = self.balancer.factors(losses, gramian(compared, where, average, common=level != "logits")).detach()
        total = (factors.to(per_term.dtype) * per_term).sum()
        return factors, with_gradient(total, leaves, found, factors) if whole else total

    def forward(self, batch: Batch) -> Loss:
        """The unweighted loss of a batch, for looking at; training goes through `fit`, which also asks for the weights."""
        views = Views(self.student(batch), self.teach(batch), batch)
        with self.unbalanced():
            amounts = self.amounts(batch)
            return self.loss(views, torch.ones(len(batch), device=views.student.logits.device) if amounts is None else amounts)

    def check(self, batch: Batch, labels: Tensor | None = None) -> None:
        """Run one batch through both sides and all terms before any work is lost; leaves everything as it was.

        Args:
            batch: A few samples.
            labels: All labels that will be trained on; None for those of the batch.

        Raises:
            ShapeError: A net cannot take the samples, student and teacher do not answer for the same classes, or labels lie
                outside them.
            UsageError: per="token", and there are no tokens to count; or a term reads the teacher and does not say so.
        """
        with modes_restored(self.student, training=False), torch.no_grad():
            own, teacher = _answer(self.student, batch, "student"), _answer(self.teach, batch, "teacher")
        assert own is not None
        classes = own.logits.shape[-1]
        if self.per == "token" and own.logits.dim() != 3:
            raise UsageError("Distiller: per='token' is for answers at every token, but here a sample has one; use per='sample'.")
        if teacher is not None:
            check_classes(own, teacher, crosses=self.objective.crosses)
        seen = batch.targets if labels is None else labels
        least = UNLABELLED
        if seen is not None and seen.dim() == 1 and len(seen) and not least <= int(seen.min()) <= int(seen.max()) < classes:
            wrong = int(seen.min()) if int(seen.min()) < least else int(seen.max())
            raise ShapeError(f"Distiller: a label is {wrong}, but the student answers for the classes 0 to {classes - 1}.")
        with torch.no_grad(), statistics_untouched(self.objective):
            tried = [part for part in self.objective.parts if not part[1].needs & COLUMNS]  # nothing was written yet
            if tried:
                self._try(Objective(tried), Views(own, teacher, batch))
        self.deployed()  # a net that cannot be kept as its terms want is told of before it is trained

    def _try(self, objective: Objective, views: Views) -> None:
        """Evaluate terms on a few samples.

        Raises:
            UsageError: One fails since it reads the teacher, which nobody asked.
            AttributeError: A term fails otherwise.
        """
        try:
            objective(views)
        except AttributeError as error:
            if views.teacher is not None or "'NoneType'" not in str(error):
                raise
            raise UsageError(
                f"Distiller: {objective!r} fails where the teacher was not asked ({error}); a term that reads the teacher says "
                'so by needs = frozenset({"teacher"}).'
            ) from error


def _answer(net: Callable[[Batch], Outputs | None], batch: Batch, who: str) -> Outputs | None:
    """What a net says of a few samples.

    Raises:
        ShapeError: It cannot take them.
        OutOfMemoryError: There is no room even for these.
    """
    try:
        return net(batch)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        inputs, why = batch.inputs, str(error).partition("\n")[0].rstrip(".")
        raise ShapeError(
            f"Distiller: the {who} cannot take inputs {list(inputs.shape)} of {inputs.dtype} on {inputs.device} ({why}); "
            "look at its first layer, its dtype and its device."
        ) from error
