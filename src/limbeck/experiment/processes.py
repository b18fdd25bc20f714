"""Several processes at one task: the machine that a recipe asks for, and that all of them end where one has trouble."""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

import torch

from limbeck.core.errors import LimbeckError, RunError
from limbeck.engine.accelerate import AccelerateEngine
from limbeck.engine.engine import Engine
from limbeck.engine.local import LocalEngine
from limbeck.experiment.recipe import Recipe


def engine_for(recipe: Recipe) -> Engine:
    """The machine that a recipe asks for; several processes where it was started by a launcher."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return AccelerateEngine(recipe.precision, cpu=recipe.device == "cpu")
    return LocalEngine(recipe.device, recipe.precision)


@contextmanager
def by_the_first(engine: Engine, opening: AbstractContextManager[object]) -> Iterator[None]:
    """A folder opened by the first process while the others wait; all fail where it fails."""
    with ExitStack() as stack:
        trouble: LimbeckError | None = None
        if engine.rank == 0:
            try:
                stack.enter_context(opening)
            except LimbeckError as error:
                trouble = error
        together(engine, trouble)
        yield


def together(engine: Engine, trouble: LimbeckError | None = None) -> None:
    """Wait for all processes.

    Raises:
        LimbeckError: This process has trouble.
        RunError: Another one has.
    """
    flags = engine.gather(torch.tensor([trouble is not None], device=engine.device))
    if trouble is not None:
        raise trouble
    if bool(flags.any()):
        raise RunError("the first process could not open the run's folder; its own message says why.")
