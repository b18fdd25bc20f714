"""Which way a training step or a scoring pass gets its inner products, chosen once, by trial on its first batch.

`captured` (one backward pass, see `captured.py`) where the samples of a batch do not meet inside the model; else `carried`
(tangents on the forward pass that runs anyway, see `tangents.py`); else `separate` (a pass of its own, see `gradients.py`). The
first two are taken only where they agree with the third, so that a layer that one of them does not know is never silently wrong.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from limbeck.core.batch import Batch
from limbeck.core.errors import LimbeckError, UsageError
from limbeck.influence.captured import Capture, obstacles
from limbeck.influence.gradients import Loss, inner_products, plain_attention, products_at_outputs
from limbeck.influence.restoring import random_state, statistics_untouched
from limbeck.influence.tangents import Tangents
from limbeck.influence.vectors import Vector

StepWay = Literal["captured", "carried", "separate"]
TOLERANCE = 1e-3
"""Largest deviation from the exact products, relative to their root mean square, in single precision."""


@dataclass(frozen=True)
class Choice:
    """What was chosen, and why nothing cheaper.

    Args:
        way: The way.
        why: One reason for each cheaper way that was not taken.
    """

    way: StepWay
    why: tuple[str, ...] = ()


def check_way(way: str, who: str) -> str:
    """The name of a way, or `auto`.

    Raises:
        UsageError: There is none of that name.
    """
    if way not in ("auto", *get_args(StepWay)):
        raise UsageError(f"{who}: way must be 'auto', {', '.join(map(repr, get_args(StepWay)))}, got {way!r}.")
    return way


def choose(
    student: nn.Module, loss: Loss, batch: Batch, q: Vector, rng: Tensor, *, coupled: bool, wanted: str = "auto"
) -> Choice:
    """The cheapest way that gives the exact products on this batch; leaves the student as it was.

    Args:
        student: In the mode of the training step.
        loss: One value per sample.
        batch: The samples.
        q: A direction.
        rng: The state of the random numbers of the step's forward pass.
        coupled: Whether a sample's loss depends on other samples' outputs.
        wanted: A way to take without a trial, or `auto`.

    Raises:
        UsageError: There is no such way.
    """
    check_way(wanted, "influence")
    if wanted == "separate":
        return Choice("separate")
    exact = inner_products(student, loss, batch, q, coupled=coupled, rng=rng)
    why = []
    if wanted in ("auto", "captured"):
        reasons = ["the loss couples the samples"] if coupled else obstacles(student)
        reasons = reasons or _trial(lambda: _captured(student, loss, batch, q), student, rng, exact)
        if not reasons:
            return Choice("captured")
        why.append(f"not captured: {'; '.join(reasons)}")
    if wanted in ("auto", "carried"):
        reasons = _trial(lambda: _carried(student, loss, batch, q, coupled), student, rng, exact)
        if not reasons:
            return Choice("carried", tuple(why))
        why.append(f"not carried: {'; '.join(reasons)}")
    return Choice("separate", tuple(why))


def _trial(found: Callable[[], Tensor], student: nn.Module, rng: Tensor, exact: Tensor) -> list[str]:
    """Why this way does not give the exact products; empty where it does."""
    try:
        with statistics_untouched(student), random_state(rng):
            products = found()
    except (LimbeckError, RuntimeError, NotImplementedError, TypeError, ValueError) as error:  # whatever the model makes of it
        return [str(error).partition("\n")[0]]
    gap = float((products - exact).norm() / exact.norm().clamp(min=torch.finfo(exact.dtype).tiny))
    return [] if gap <= TOLERANCE else [f"its products are off by {gap:.1%}: the model mixes samples, or uses weights on its own"]


def scoring_pass(way: StepWay, model: nn.Module, loss: Loss, *, coupled: bool) -> Callable[[Batch, Vector], Tensor]:
    """<q, g_i> for every sample of a batch, [B], by a way that was chosen; for finished models, where no step needs the graph.

    Args:
        way: What `choose` gave.
        model: Called with a batch, in evaluation mode.
        loss: One value per sample.
        coupled: Whether a sample's loss depends on other samples' outputs.
    """
    if way == "captured":
        capture = Capture(model)

        def captured(batch: Batch, q: Vector) -> Tensor:
            kept, start = [], 0
            while start < len(batch):
                piece = batch.take(slice(start, start + capture.together))
                kept.append(_captured(model, loss, piece, q, capture))
                capture.calls.clear()
                start += len(piece)
            return torch.cat(kept) if len(kept) > 1 else kept[0]

        return captured
    if way == "carried":

        def carried(batch: Batch, q: Vector) -> Tensor:
            with torch.no_grad(), plain_attention():
                return _carried(model, loss, batch, q, coupled)

        return carried
    return lambda batch, q: inner_products(model, loss, batch, q, coupled=coupled)


def _captured(student: nn.Module, loss: Loss, batch: Batch, q: Vector, capture: Capture | None = None) -> Tensor:
    capture = Capture(student) if capture is None else capture
    with torch.enable_grad():
        with capture.recording(len(batch)):
            answer = student(batch)
        return capture.backward_along(loss(lambda _: answer, batch).mean(), q, len(batch))


def _carried(student: nn.Module, loss: Loss, batch: Batch, q: Vector, coupled: bool) -> Tensor:
    with Tangents(student, q) as tangents:
        answer = student(batch)
    return products_at_outputs(loss, batch, answer, tangents.outputs(answer), coupled=coupled)
