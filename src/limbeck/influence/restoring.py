"""Looking without leaving traces: modes, running statistics and random numbers are afterwards as they were, whatever happens."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


@contextmanager
def statistics_untouched(model: nn.Module) -> Iterator[None]:
    """Every layer goes on to use what its mode says, but running statistics and all other buffers do not move.

    Batch normalisation is told not to track. Other layers in train mode (instance normalisation, spectral normalisation)
    work on copies of their buffers meanwhile.
    """
    training = [module for module in model.modules() if module.training]
    tracking = [module for module in training if isinstance(module, _BatchNorm) and module.track_running_stats]
    held = [(m, name, part) for m in training if not isinstance(m, _BatchNorm) for name, part in m._buffers.items()]
    for norm in tracking:
        norm.track_running_stats = False
    for module, name, part in held:
        module._buffers[name] = None if part is None else part.clone()
    try:
        yield
    finally:
        for norm in tracking:
            norm.track_running_stats = True
        for module, name, part in held:
            module._buffers[name] = part


@contextmanager
def modes_restored(model: nn.Module, *, training: bool) -> Iterator[None]:
    """Put the whole model into one mode, and give every module its own mode back afterwards, whatever happens."""
    modes = [(module, module.training) for module in model.modules()]
    model.train(training)
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode, working on copies of its buffers; modes and buffers are afterwards as they were.

    Built-in layers leave their buffers alone in evaluation mode. A layer of the user's may count its calls.
    """
    held = [(module, name, part) for module in model.modules() for name, part in module._buffers.items() if part is not None]
    with modes_restored(model, training=False):
        for module, name, part in held:
            module._buffers[name] = part.clone()
        try:
            yield
        finally:
            for module, name, part in held:
                module._buffers[name] = part


@contextmanager
def random_state(state: Tensor | None) -> Iterator[None]:
    """Replay the CPU's random numbers from this state (the same dropout masks), and put the present state back afterwards."""
    if state is None:
        yield
        return
    present = torch.get_rng_state()
    torch.set_rng_state(state)
    try:
        yield
    finally:
        torch.set_rng_state(present)
