"""Which way a training step or a scoring pass gets its inner products, chosen once, by trial on its first batch.

`captured` (one backward pass, see `captured.py`) where the samples of a batch do not meet inside the model; else `carried`
(tangents on the forward pass that runs anyway, see `tangents.py`); else `separate` (a pass of its own, see `gradients.py`). A
scoring pass along one direction, which needs no gradient, has convolutional nets carried all the same. The first two are taken
only where they agree with the third, and the third only where it agrees with the gradient of a plain backward
pass, else `reverse` (two backward passes): what one of them does not know is never silently wrong.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from limbeck.core.batch import Batch
from limbeck.core.errors import LimbeckError, UsageError
from limbeck.influence.captured import FIRST, Capture, obstacles
from limbeck.influence.gradients import Loss, Way, inner_products, plain_attention, products_at_outputs
from limbeck.influence.restoring import random_state, statistics_untouched
from limbeck.influence.tangents import Tangents
from limbeck.influence.vectors import Vector, trainable

StepWay = Literal["captured", "carried", "separate", "reverse"]
TOLERANCE = 1e-3
"""Largest deviation from the exact products, relative to their root mean square, in single precision."""
LARGEST, DEVICE_LARGEST = 2**20, 2**26
"""Numbers of the largest tangent of a piece that is carried, on the processor, whose cache should hold it, and elsewhere."""
DOUBT = 1e-2
"""The same for their sum, which a plain backward pass gives too: it rounds otherwise than a forward derivative."""


@dataclass(frozen=True)
class Choice:
    """What was chosen, and why nothing cheaper.

    Args:
        way: The way.
        why: One reason for each cheaper way that was not taken.
        shared: Names of embeddings that all samples look up alike, for passes that are captured.
        carries: Whether a scoring pass along one direction is carried all the same, some samples at a time, which is quicker.
    """

    way: StepWay
    why: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()
    carries: bool = False


def check_way(way: str, who: str) -> str:
    """The name of a way, or `auto`.

    Raises:
        UsageError: There is none of that name.
    """
    if way not in ("auto", *get_args(StepWay)):
        raise UsageError(f"{who}: way must be 'auto', {', '.join(map(repr, get_args(StepWay)))}, got {way!r}.")
    return way


def choose(
    student: nn.Module,
    loss: Loss,
    batch: Batch,
    q: Vector,
    rng: Tensor,
    *,
    coupled: bool,
    wanted: str = "auto",
    step: bool = False,
) -> Choice:
    """The cheapest way that gives the exact products on this batch; leaves the student as it was.

    Args:
        student: In the mode of the passes to come.
        loss: One value per sample.
        batch: The samples; of a single one nothing is learnt that holds for more.
        q: A direction.
        rng: The state of the random numbers of the step's forward pass.
        coupled: Whether a sample's loss depends on other samples' outputs.
        wanted: A way to take where it is exact, else `separate` or `reverse`; or `auto`.
        step: Whether a step's gradient will be made of what is captured too: q may leave layers out, the gradient does not.

    Raises:
        UsageError: There is no such way.
    """
    check_way(wanted, "influence")
    if wanted == "reverse":
        return Choice("reverse")
    weights = 2 * torch.rand(len(batch), generator=torch.Generator().manual_seed(0)).to(batch.index.device)
    plain = _gradient(student, loss, batch, weights, rng)
    exact = inner_products(student, loss, batch, q, coupled=coupled, rng=rng)
    doubts = _doubts(plain, q, weights.to(exact) * exact)
    if doubts:
        exact = inner_products(student, loss, batch, q, coupled=coupled, way="reverse", rng=rng)
    why = []
    if wanted in ("auto", "captured"):
        capture = Capture(student)
        reasons = ["the loss couples the samples"] if coupled else obstacles(student)
        reasons = reasons or _trial(lambda: _captured(student, loss, batch, q, capture), student, rng, exact)
        if step and not reasons:
            formed = partial(_captured_gradient, student, loss, batch, q, weights, plain)
            reasons = _trial(formed, student, rng, _row(plain), "gradients")
        if not reasons:
            carrying = wanted == "auto" and not step and _convolves(student)
            carries = carrying and not _trial(lambda: _carried(student, loss, batch, q, coupled)[0], student, rng, exact)
            return Choice("captured", shared=tuple(sorted(capture.shared)), carries=carries)
        why.append(f"not captured: {'; '.join(reasons)}")
    if wanted in ("auto", "carried"):
        reasons = _trial(lambda: _carried(student, loss, batch, q, coupled)[0], student, rng, exact)
        if not reasons:
            return Choice("carried", tuple(why))
        why.append(f"not carried: {'; '.join(reasons)}")
    return Choice("reverse", (*why, *doubts)) if doubts else Choice("separate", tuple(why))


def _convolves(student: nn.Module) -> bool:
    """Whether it has more convolutions than other products: carried they take less time than captured."""
    layers = [module for module in student.modules() if isinstance(module, nn.Linear | nn.Embedding | nn.Conv1d | nn.Conv2d)]
    return 2 * sum(isinstance(layer, nn.Conv1d | nn.Conv2d) for layer in layers) > len(layers)


def _gradient(student: nn.Module, loss: Loss, batch: Batch, weights: Tensor, rng: Tensor) -> Vector:
    """The gradient of sum_i w_i l_i by a plain backward pass; parameters that it does not reach are left out."""
    own = trainable(student)
    with torch.enable_grad(), statistics_untouched(student), random_state(rng):
        answer = student(batch)
        values = loss(lambda _: answer, batch)
        found = torch.autograd.grad(values @ weights.to(values), list(own.values()), allow_unused=True)
    return {name: slope for name, slope in zip(own, found, strict=True) if slope is not None}


def _doubts(gradient: Vector, q: Vector, products: Tensor) -> list[str]:
    """Why exact products are not those of the gradient: both must add up to the same."""
    along = sum(float((q[name].double() * slope).sum()) for name, slope in gradient.items() if name in q)
    gap, size = abs(along - float(products.double().sum())), float(products.double().norm())
    if gap <= DOUBT * size:
        return []
    return [f"not separate: its products are off by {gap / max(size, 1e-300):.1%}: something moves that has no gradient"]


def _trial(found: Callable[[], Tensor], student: nn.Module, rng: Tensor, exact: Tensor, what: str = "products") -> list[str]:
    """Why this way does not give the exact numbers; empty where it does."""
    try:
        with statistics_untouched(student), random_state(rng):
            numbers = found()
    except (LimbeckError, RuntimeError, NotImplementedError, TypeError, ValueError) as error:  # whatever the model makes of it
        return [str(error).partition("\n")[0]]
    gap = float((numbers - exact).norm() / exact.norm().clamp(min=torch.finfo(exact.dtype).tiny))
    return [] if gap <= TOLERANCE else [f"its {what} are off by {gap:.1%}: the model mixes samples, or uses weights on its own"]


def _row(vector: Vector) -> Tensor:
    """All numbers, in the order of the names."""
    return torch.cat([vector[name].reshape(-1) for name in sorted(vector)])


def scoring_pass(choice: Choice, model: nn.Module, loss: Loss, *, coupled: bool) -> Callable[[Batch, Vector], Tensor]:
    """<q, g_i> for every sample of a batch, [B], by a way that was chosen; for finished models, where no step needs the graph.

    Args:
        choice: What `choose` gave.
        model: Called with a batch, in evaluation mode.
        loss: One value per sample.
        coupled: Whether a sample's loss depends on other samples' outputs.
    """
    if choice.way == "captured" and not choice.carries:
        return _captured_pass(model, loss, set(choice.shared))
    if choice.way in ("captured", "carried"):
        return _carried_pass(model, loss, coupled=coupled, cuts=choice.carries)
    way = pass_of(choice)
    return lambda batch, q: inner_products(model, loss, batch, q, coupled=coupled, way=way)


def _captured_pass(model: nn.Module, loss: Loss, shared: set[str]) -> Callable[[Batch, Vector], Tensor]:
    capture = Capture(model, shared=shared)

    def products(piece: Batch, q: Vector) -> Tensor:
        found = _captured(model, loss, piece, q, capture)
        capture.calls.clear()
        return found

    return _in_pieces(products, lambda _: capture.together)


def _carried_pass(model: nn.Module, loss: Loss, *, coupled: bool, cuts: bool) -> Callable[[Batch, Vector], Tensor]:
    count = FIRST

    def products(piece: Batch, q: Vector) -> Tensor:
        nonlocal count
        with torch.no_grad(), plain_attention():
            found, largest = _carried(model, loss, piece, q, coupled)
        most = LARGEST if piece.index.device.type == "cpu" else DEVICE_LARGEST
        count = max(1, most * len(piece) // max(1, largest))
        return found

    return _in_pieces(products, lambda batch: count if cuts else len(batch))


def _in_pieces(
    products: Callable[[Batch, Vector], Tensor], together: Callable[[Batch], int]
) -> Callable[[Batch, Vector], Tensor]:
    """The products of a batch, [B], taken some samples at a time; how many is asked anew before each piece."""

    def whole(batch: Batch, q: Vector) -> Tensor:
        kept, start = [], 0
        while start < len(batch):
            piece = batch.take(slice(start, start + together(batch)))
            kept.append(products(piece, q))
            start += len(piece)
        return torch.cat(kept) if len(kept) > 1 else kept[0]

    return whole


def pass_of(choice: Choice | None) -> Way:
    """How a pass of its own takes the products."""
    return "reverse" if choice is not None and choice.way == "reverse" else "auto"


def _captured(student: nn.Module, loss: Loss, batch: Batch, q: Vector, capture: Capture, *, keep: bool = False) -> Tensor:
    with torch.enable_grad():
        with capture.recording(len(batch)):
            answer = student(batch)
        return capture.backward_along(loss(lambda _: answer, batch).mean(), q, len(batch), keep=keep)


def _captured_gradient(student: nn.Module, loss: Loss, batch: Batch, q: Vector, weights: Tensor, like: Vector) -> Tensor:
    """The gradient of sum_i w_i l_i as a captured step forms it, in the order of `_row`."""
    capture = Capture(student)
    _captured(student, loss, batch, q, capture, keep=True)
    found = capture.gradients(weights)
    return len(batch) * _row({name: found.get(name, torch.zeros_like(part)) for name, part in like.items()})


def _carried(student: nn.Module, loss: Loss, batch: Batch, q: Vector, coupled: bool) -> tuple[Tensor, int]:
    """The products, and how many numbers the largest tangent has."""
    with Tangents(student, q) as tangents:
        answer = student(batch)
    return products_at_outputs(loss, batch, answer, tangents.outputs(answer), coupled=coupled), tangents.largest
