"""A weighted step of the student: forward, scores, weights, backward, in parts where the batch is cut.

Over 300 lines: the ways to a step share what they are made of, and must stay equal to each other.
"""

import math
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from limbeck.balancing.static import Static
from limbeck.core.batch import Batch
from limbeck.core.errors import RunError, ShapeError
from limbeck.core.outputs import Outputs, Views
from limbeck.engine.engine import Engine
from limbeck.functional.divergences import full_precision
from limbeck.influence.captured import Capture
from limbeck.influence.gradients import at, inner_products, products_at_outputs
from limbeck.influence.restoring import random_state, statistics_untouched
from limbeck.influence.tangents import Tangents
from limbeck.influence.task import Forward
from limbeck.influence.vectors import Vector
from limbeck.influence.ways import StepWay, choose, pass_of
from limbeck.teachers.single import Single
from limbeck.training.training import Record, Training
from limbeck.weighting.weighting import Step


@dataclass(frozen=True)
class Part:
    """A piece of a batch with the teacher's answer and the random state of the student's pass through it.

    Args:
        batch: Its samples.
        teacher: What the teacher answered.
        rng: The state of the random numbers.
        student: What the student answered in the step's own pass, detached; None before it.
        taught: What the teacher answered, with its graph, where the step is to move the teacher and the batch is not cut.
    """

    batch: Batch
    teacher: Outputs | None
    rng: Tensor
    student: Outputs | None = None
    taught: Outputs | None = None


def parts_of(
    training: Training, batch: Batch, moved: Single | None = None, teach: Callable[[Batch], Outputs | None] | None = None
) -> list[Part]:
    """Cut the batch for accumulation and ask the teacher; each part's random numbers are fixed here.

    Args:
        training: The run.
        batch: This process's samples.
        moved: The teacher where the step moves it too: its one pass through a batch that is not cut then serves both.
        teach: What gives the teacher's answer to a piece; None asks the teacher.
    """
    pieces, distiller = batch.split(training.accumulate) if training.accumulate > 1 else [batch], training.distiller
    teach = distiller.teach if teach is None else teach
    if moved is not None and len(pieces) == 1 and "teacher" in distiller.objective.needs:
        with training.engine.autocast():
            taught: Outputs = moved.tapped(batch)
        return [Part(batch, taught.detach(), torch.get_rng_state(), taught=taught)]
    found = []
    for piece in pieces:
        with training.engine.autocast():
            teacher = teach(piece)
        found.append(Part(piece, teacher, torch.get_rng_state() if len(pieces) == 1 else _fresh_random_state()))
    return found


def _fresh_random_state() -> Tensor:
    """A random state of its own for a part, drawn from the present one: parts and steps do not share their dropout masks."""
    return torch.Generator().manual_seed(int(torch.randint(2**62, ()))).get_state()


def part_loss(training: Training, part: Part) -> Callable[[Forward, Batch], Tensor]:
    """The objective on a part as a function of the student, with the teacher's answer held fixed."""
    objective = training.distiller.objective

    def loss(student: Forward, batch: Batch) -> Tensor:
        with training.engine.autocast(), statistics_untouched(objective):
            return objective.per_sample(Views(student(batch), part.teacher, batch))

    return loss


def weigh(
    training: Training,
    parts: list[Part],
    look: Callable[[], Tensor],
    parameters: Vector | None = None,
    known: tuple[Vector, Tensor] | None = None,
    queried: tuple[Vector, float] | None = None,
    capture: Capture | None = None,
) -> Tensor:
    """The weights of a batch's samples, normalised over the whole batch, however it is cut.

    Args:
        training: The run.
        parts: The batch, cut.
        look: Gives each sample's loss, [B], detached; asked where the weighting wants to know it.
        parameters: Other student parameters than its own, for a lookahead.
        known: A direction and the inner products with it, where they are at hand.
        queried: The gradient of the mean query loss at the lookahead, and that loss, where they are at hand.
        capture: What was captured of the batch at the lookahead, where it was and the batch is not cut.

    Raises:
        ShapeError: The weighting did not give one weight per sample.
        RunError: A weight is negative.
    """
    distiller = training.distiller
    student = distiller.student

    def dot(q: Vector) -> Tensor:
        if known is not None and known[0] is q:
            return full_precision(known[1])
        if capture is not None:
            return full_precision(capture.products(q, len(parts[0].batch)))
        _chosen(training, parts, q)
        rows, way = [], pass_of(training.way)
        for part in parts:
            loss, coupled = part_loss(training, part), distiller.objective.coupled
            with training.engine.autocast():
                products = inner_products(
                    student, loss, part.batch, q, parameters=parameters, coupled=coupled, way=way, rng=part.rng
                )
            rows.append(full_precision(products))
        return torch.cat(rows)

    batch = Batch.concat([part.batch for part in parts])
    with random_state(torch.get_rng_state()):  # a weighting draws what it likes; the student's dropout masks stay as they are
        step = Step(training.number, batch, lambda: full_precision(look()), dot, parameters, queried)
        weights = distiller.weighting(step).detach()
    _check_weights(weights, len(batch), type(distiller.weighting).__name__, training.number)
    return weights


def _check_weights(weights: Tensor, count: int, who: str, number: int) -> None:
    """See that there is one weight of at least 0 for every sample.

    Raises:
        ShapeError: There is not one for each.
        RunError: One is negative.
    """
    if weights.shape != (count,):
        raise ShapeError(
            f"{who} returned {list(weights.shape)} for {count} samples; a weighting gives one weight per sample, [B]."
        )
    lowest = float(weights.min())
    if lowest < 0:
        raise RunError(
            f"{who} gave a weight of {lowest:g} at step {number}; weights are numbers of at least 0 (a negative one would have "
            "the student unlearn a sample)."
        )


def peek_at(training: Training, parts: list[Part]) -> Tensor:
    """Every sample's loss, [B], without a graph; see `look_at`."""
    return look_at(training, parts)[0]


def look_at(training: Training, parts: list[Part], parameters: Vector | None = None) -> tuple[Tensor, list[Outputs]]:
    """Every sample's loss, [B], and the student's answer to each part; running statistics and random numbers do not move.

    Args:
        training: The run.
        parts: The batch, cut.
        parameters: Student parameters to look at; None for its own.
    """
    student = training.distiller.student
    forward: Forward = student if parameters is None else at(student, parameters)
    rows: list[Tensor] = []
    seen: list[Outputs] = []
    for part in parts:
        with torch.no_grad(), statistics_untouched(student), random_state(part.rng):
            with training.engine.autocast():
                seen.append(forward(part.batch))
            rows.append(part_loss(training, part)(lambda _: seen[-1], part.batch))
    return torch.cat(rows), seen


def weighted_backward(
    training: Training,
    batch: Batch,
    weights: Tensor | None = None,
    moved: Single | None = None,
    parts: list[Part] | None = None,
) -> tuple[Record, list[Part]]:
    """Forward, weights, backward: afterwards the student's gradient is that of (1/B) sum_i w_i L_i over all processes.

    Gives the record, and the parts of the batch with the student's answers.

    With per="token" in the distiller it is that of (sum_i w_i n_i L_i) / (sum_i n_i), n_i the tokens of sample i that count.

    Args:
        training: The run.
        batch: This process's samples.
        weights: [B] to use; None asks the distiller's weighting.
        moved: The teacher where the step moves it too.
        parts: The batch, cut, with the teacher's answers, where they are at hand; None asks the teacher.

    Raises:
        RunError: The loss became NaN or infinite.
    """
    distiller, engine = training.distiller, training.engine
    parts = parts_of(training, batch, moved) if parts is None else parts
    amounts = distiller.amounts(batch, engine.gather)
    if weights is None and distiller.weighting.constant:
        weights = torch.ones(len(batch), device=batch.index.device)
    q = distiller.weighting.direction(training.number) if weights is None else None
    way = _way(training, parts, q)
    if way == "captured":
        assert q is not None
        record, part = captured_backward(training, parts[0], q, amounts)
        return record, [part]
    if weights is None and len(parts) > 1:
        weights = weigh(training, parts, partial(peek_at, training, parts))
    average = None if engine.processes == 1 else lambda part: engine.gather(part.unsqueeze(0)).mean(0)
    reference = reference_loss(training, len(batch)) if distiller.balancer.needs_queries else None
    total, start, values, seen = 0.0, 0, [], []
    for number, part in enumerate(parts):
        context = engine.local(training.student) if number < len(parts) - 1 else nullcontext()
        with context, random_state(part.rng) if len(parts) > 1 else nullcontext():
            tangents = Tangents(distiller.student, q) if way == "carried" and q is not None else None
            with engine.autocast(), tangents or nullcontext():
                views = Views(training.student(part.batch), part.teacher, part.batch)
            if weights is None:
                weights = _own_weights(training, parts, views, (q, tangents) if tangents is not None and q is not None else None)
            with engine.autocast():
                rows = slice(start, start + len(part.batch))
                loss = distiller.loss(views, _times(weights, amounts)[rows], average, reference)
            share = len(part.batch) / len(batch)
            engine.backward(loss.total * share if share < 1 else loss.total)
        start += len(part.batch)
        total += float(loss.total.detach()) * share
        values.append(loss.values.detach())
        seen.append(views)
    average_gradients(engine, distiller.objective.parameters())
    assert weights is not None
    answered = [replace(part, student=views.student.detach()) for part, views in zip(parts, seen, strict=True)]
    return _record(training, seen, torch.cat(values, 1), total, weights, amounts), answered


def _times(weights: Tensor, amounts: Tensor | None) -> Tensor:
    """What each sample counts, by its weight and by its length."""
    return weights if amounts is None else weights * amounts


def _way(training: Training, parts: list[Part], q: Vector | None) -> StepWay:
    """The way of this step; chosen by trial at the first one that has a direction."""
    distiller = training.distiller
    if q is None:
        return "separate"
    way = _chosen(training, parts, q)
    whole = len(parts) == 1 and training.engine.processes == 1
    # The balancer looks at weighted losses, which a captured step does not have before its backward pass.
    fits = whole and (way != "captured" or isinstance(distiller.balancer, Static))
    return way if fits else "separate"


def _chosen(training: Training, parts: list[Part], q: Vector) -> StepWay:
    """What was chosen for the run, by a trial in full precision at the first batch of more than one sample."""
    distiller, part = training.distiller, parts[0]
    if training.way is None and len(part.batch) > 1:
        loss, coupled = part_loss(training, part), distiller.objective.coupled
        wanted = distiller.weighting.way if len(parts) == 1 and training.engine.processes == 1 else "separate"
        training.way = choose(distiller.student, loss, part.batch, q, part.rng, coupled=coupled, wanted=wanted, step=True)
    return "separate" if training.way is None else training.way.way


def captured_backward(training: Training, part: Part, q: Vector, amounts: Tensor | None = None) -> tuple[Record, Part]:
    """One backward pass to the layers' outputs; scores, weights and the weighted gradient are made of what was captured there."""
    distiller, engine, count = training.distiller, training.engine, len(part.batch)
    capture, ones = _capture_of(training), torch.ones(count, device=part.batch.index.device)
    with engine.autocast(), capture.recording(count):
        views = Views(training.student(part.batch), part.teacher, part.batch)
    before = torch.get_rng_state()
    with engine.autocast():
        loss = distiller.loss(views, ones)
    products = capture.backward_along(loss.total, q, count, keep=True)
    values, coefs = loss.values.detach(), distiller.objective.coefs
    losses = (coefs.to(values.dtype).unsqueeze(1) * values).sum(0)
    weights = weigh(training, [part], lambda: losses, known=(q, products))
    if bool((weights == 1).all()):  # the plain step to the last bit: the kernels of captured layers may round otherwise
        capture.calls.clear()
        with random_state(part.rng), statistics_untouched(distiller.student):  # buffers have moved already
            record, parts = weighted_backward(training, part.batch, weights, parts=[part])
        return record, parts[0]
    counting = _times(weights, amounts)
    for name, gradient in capture.gradients(counting).items():
        own = capture.parameters[name]
        own.grad = gradient if own.grad is None else own.grad + gradient
    capture.calls.clear()
    if any(part.requires_grad for part in distiller.objective.parameters()):
        with engine.autocast(), random_state(before):  # terms that draw draw the same again
            engine.backward(distiller.loss(Views(views.student.detach(), views.teacher, views.batch), counting).total)
    total = float((losses * counting.to(losses.dtype)).mean())
    return _record(training, [views], values, total, weights, amounts), replace(part, student=views.student.detach())


def _capture_of(training: Training) -> Capture:
    """That of the steps before; a new one where other parameters are trained than theirs."""
    student = training.distiller.student
    if training.capture is None or not training.capture.fits(student):
        assert training.way is not None
        training.capture = Capture(student, set(training.way.shared))
    return training.capture


def _record(
    training: Training, seen: list[Views], values: Tensor, total: float, weights: Tensor, amounts: Tensor | None
) -> Record:
    """What the step leaves behind; terms that remember are told of it.

    Raises:
        RunError: The loss became NaN or infinite.
    """
    distiller = training.distiller
    if not math.isfinite(total):
        raise RunError(f"training: the loss became {total} at step {training.number}; use a smaller learning rate, or clip.")
    if distiller.objective.remembers:
        distiller.objective.remember(everyones(seen, training.engine))
    objective, values = distiller.objective, values.float()
    terms = dict(zip(objective.names, values.mean(1).tolist(), strict=True))
    added = (objective.coefs * objective.factors).to(values) * (values * _times(weights, amounts).to(values)).mean(1)
    figures = distiller.weighting.figures() | distiller.balancer.figures()
    batch = Batch.concat([views.batch for views in seen])
    weighted = dict(zip(objective.names, added.tolist(), strict=True))
    return Record(batch, total, terms, weights, distiller.weighting.last_scores(), figures, weighted)


def next_queries(training: Training, count: int) -> Batch:
    """Query samples, in turn from step to step, as many as all processes have of the batch (each `count`) or as there are."""
    assert training.queries is not None
    queries, count = training.queries, count * training.engine.processes
    rows = (training.number * count + torch.arange(min(count, len(queries)), device=queries.index.device)) % len(queries)
    return queries.take(rows)


def reference_loss(training: Training, count: int) -> Tensor:
    """The mean query loss on the next `count` query samples, with its graph; leaves no trace in the student."""
    student = training.distiller.student
    with statistics_untouched(student), random_state(torch.get_rng_state()), training.engine.autocast():
        return training.distiller.task().query_loss(student, next_queries(training, count)).mean()


def everyones(parts: list[Views], engine: Engine) -> Views:
    """The detached views of a batch's parts as one, of all processes, in rank order."""
    batch = Batch.concat([part.batch for part in parts])
    student = Outputs.concat([part.student.detach() for part in parts])
    teacher = Outputs.concat([part.teacher.detach() for part in parts if part.teacher is not None]) if parts[0].teacher else None
    if engine.processes == 1:
        return Views(student, teacher, batch)
    return Views(student.map(engine.gather), None if teacher is None else teacher.map(engine.gather), batch.map(engine.gather))


def average_gradients(engine: Engine, parameters: Iterable[nn.Parameter]) -> None:
    """The mean over all processes of the gradients of what the engine does not wrap: the objective's parts, a trained teacher."""
    if engine.processes == 1:
        return
    for part in parameters:
        if part.grad is not None:
            part.grad = engine.gather(part.grad.unsqueeze(0)).mean(0)


def _own_weights(training: Training, parts: list[Part], views: Views, ridden: tuple[Vector, Tangents] | None) -> Tensor:
    """The weights of a batch that was not cut: losses, and products where tangents rode along, come from the forward pass.

    Terms that draw (dropout, negatives) draw the same for losses, products and, afterwards, the step's own loss.
    """
    objective, before = training.distiller.objective, torch.get_rng_state()

    def look() -> Tensor:
        with torch.no_grad(), statistics_untouched(objective), random_state(before):
            return objective.per_sample(views)

    if ridden is None:
        return weigh(training, parts, look)
    q, tangents = ridden
    loss, moved = part_loss(training, parts[0]), tangents.outputs(views.student)
    with random_state(before):
        products = products_at_outputs(loss, views.batch, views.student, moved, coupled=objective.coupled)
    return weigh(training, parts, look, known=(q, products))
