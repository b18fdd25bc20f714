"""Checkpoints that a run ends in the same bytes from: all state of a run in one file, written whole or not at all."""

import io
import time
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from limbeck.core.errors import RunError
from limbeck.core.files import write_whole as write_whole
from limbeck.influence.ways import Choice
from limbeck.training.callback import Callback
from limbeck.training.training import Training, Update

VERSION = 5


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint whole or not at all.

    Raises:
        RunError: The disk is full or the folder cannot be written.
    """
    buffer = io.BytesIO()
    torch.save({"version": VERSION, **state}, buffer)
    write_whole(path, buffer.getvalue())


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint; only tensors and plain values are accepted, so that no file can run code.

    Raises:
        RunError: The file is damaged, or of another version.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()  # torch itself does not look at the check sums
        state: object = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise RunError(
            f"the checkpoint {path} is damaged ({type(error).__name__}); delete it to begin that part anew."
        ) from error
    if broken is not None or not isinstance(state, dict):
        raise RunError(f"the checkpoint {path} is damaged (wrong content); delete it to begin that part anew.")
    if state.get("version") != VERSION:
        raise RunError(
            f"the checkpoint {path} is of version {state.get('version')}, this program reads {VERSION}; begin the run anew."
        )
    return state


@dataclass
class Keeper:
    """Saves a run's state now and then, and brings it back.

    Args:
        path: The checkpoint file.
        every: Steps between two checkpoints, 0 for the end of each epoch.
        pause_s: Least time between two checkpoints, in seconds, >= 0.
    """

    path: Path
    every: int = 0
    pause_s: float = 5.0
    _last: float = field(default_factory=time.monotonic, init=False)

    def keep(self, training: Training, step: Update, callbacks: Sequence[Callback], *, epoch_ended: bool) -> None:
        """Save when it is time."""
        due = epoch_ended if self.every == 0 else training.number % self.every == 0
        if training.engine.rank == 0 and due and time.monotonic() - self._last >= self.pause_s:
            save(self.path, snapshot(training, step, callbacks))
            self._last = time.monotonic()

    def resume(self, training: Training, step: Update, callbacks: Sequence[Callback]) -> bool:
        """Bring back what was saved last; False where nothing was.

        Raises:
            RunError: The checkpoint is damaged, of another version or of another run.
        """
        if not self.path.exists():
            return False
        state = load(self.path)
        try:
            restore(state, training, step, callbacks)
        except (KeyError, ValueError, TypeError, RuntimeError, AttributeError) as error:
            raise RunError(
                f"the checkpoint {self.path} does not fit this run ({str(error).splitlines()[0]}); delete it to begin anew."
            ) from error
        return True


def snapshot(training: Training, step: Update, callbacks: Sequence[Callback]) -> dict[str, Any]:
    """All state that decides how the run goes on, as tensors and plain values."""
    distiller = training.distiller
    return {
        "made_of": _made_of(training, step),
        "number": training.number,
        "way": None if training.way is None else [training.way.way, *training.way.why],
        "shared": [] if training.way is None else list(training.way.shared),
        "student": distiller.student.state_dict(),
        "objective": distiller.objective.state_dict(),
        "teacher": distiller.teacher.state_dict() if distiller.teacher is not None and step.trains_teacher else None,
        "optimizer": training.optimizer.state_dict(),
        "weighting": distiller.weighting.state(),
        "balancer": distiller.balancer.state(),
        "factors": distiller.objective.factors,
        "step": step.state(),
        "callbacks": [callback.state() for callback in callbacks],
        "random": _random_state(),
    }


def restore(state: dict[str, Any], training: Training, step: Update, callbacks: Sequence[Callback]) -> None:
    """Take back what `snapshot` gave.

    Raises:
        ValueError: It is the state of a run that trained other parts.
    """
    distiller = training.distiller
    if state["made_of"] != _made_of(training, step):
        raise ValueError(f"it is one of {', '.join(state['made_of'])}, not of {', '.join(_made_of(training, step))}")
    training.number = state["number"]
    training.way = None if state["way"] is None else Choice(state["way"][0], tuple(state["way"][1:]), tuple(state["shared"]))
    distiller.student.load_state_dict(state["student"])
    distiller.objective.load_state_dict(state["objective"])
    if state["teacher"] is not None and distiller.teacher is not None:
        distiller.teacher.load_state_dict(state["teacher"])
    training.optimizer.load_state_dict(state["optimizer"])
    distiller.weighting.load_state({name: part.to(training.engine.device) for name, part in state["weighting"].items()})
    distiller.balancer.load_state({name: part.to(training.engine.device) for name, part in state["balancer"].items()})
    distiller.objective.factors = state["factors"].to(training.engine.device)
    step.load_state(state["step"])
    for callback, own in zip(callbacks, state["callbacks"], strict=True):
        callback.load_state(own)
    _set_random_state(state["random"])


def _made_of(training: Training, step: Update) -> list[str]:
    """What must be the same for a state to be taken back."""
    distiller = training.distiller
    return [type(part).__name__ for part in (step, distiller.weighting, distiller.balancer, training.optimizer)]


def _random_state() -> dict[str, Tensor]:
    cuda = {"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {}
    return {"cpu": torch.get_rng_state(), **cuda}


def _set_random_state(state: dict[str, Tensor]) -> None:
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
