"""A layer that fails at a pass of a given number, and a picture of all that a failure may leave changed."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class BlownError(Exception):
    """What goes wrong."""


@contextmanager
def fuse(layer: nn.Module, at: int, *, backward: bool) -> Iterator[None]:
    """The layer's pass of this number fails: a forward pass, or a backward pass through what it gave."""
    passed = 0

    def strike(*_: object) -> None:
        nonlocal passed
        passed += 1
        if passed == at:
            raise BlownError

    def hook(_module: nn.Module, _inputs: object, output: Tensor) -> None:
        if not backward:
            strike()
        elif output.requires_grad:
            output.register_hook(strike)

    handle = layer.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def last_linear(model: nn.Module) -> nn.Module:
    return [module for module in model.modules() if isinstance(module, nn.Linear)][-1]


def switches(model: nn.Module) -> list[object]:
    """Modes, hooks, identities of parameters and buffers, and torch's own switches."""
    modules = list(model.modules())
    return [
        [module.training for module in modules],
        [module.track_running_stats for module in modules if isinstance(module, _BatchNorm)],
        [len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in modules],
        [(id(part), part.requires_grad) for part in (*model.parameters(), *model.buffers())],
        [torch.is_grad_enabled(), torch.backends.mha.get_fastpath_enabled(), torch.backends.cuda.flash_sdp_enabled()],
    ]
