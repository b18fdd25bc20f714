"""One process on one device."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Literal, cast, final

import torch
from torch import Tensor, nn

from limbeck.core.batch import Batch
from limbeck.core.errors import UsageError

Precision = Literal["fp32", "bf16"]


@final
class LocalEngine:
    """One process on one device, in float32 or with bfloat16 forward passes.

    Args:
        device: `cpu`, `cuda`, or `auto` for cuda where there is one.
        precision: `fp32` or `bf16`; parameters and their gradients stay in float32 either way.

    Raises:
        UsageError: The device is not there, or the precision is unknown.
    """

    processes = 1
    rank = 0

    def __init__(self, device: str = "cpu", precision: str = "fp32") -> None:
        if precision not in ("fp32", "bf16"):
            raise UsageError(f"precision must be 'fp32' or 'bf16', got {precision!r}.")
        self.precision = cast(Precision, precision)
        self.device = find_device(device)

    def prepare(self, module: nn.Module) -> nn.Module:
        """The module on the device."""
        return module.to(self.device)

    def shard(self, batch: Batch) -> Batch:
        """The whole batch, on the device."""
        return batch.to(self.device)

    @contextmanager
    def autocast(self) -> Iterator[None]:
        """Bfloat16 forward passes where asked for."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            yield

    def local(self, module: nn.Module) -> AbstractContextManager[None]:
        """Nothing to hold back."""
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        """Add the loss's gradients to the parameters."""
        torch.autograd.backward(loss)

    def gather(self, values: Tensor) -> Tensor:
        """The values themselves."""
        return values


def find_device(name: str) -> torch.device:
    """The device of that name.

    Raises:
        UsageError: There is none.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.split(":")[0] not in ("cpu", "cuda", "mps"):
        raise UsageError(f"device must be 'cpu', 'cuda' or 'auto', got {name!r}.")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError("device: 'cuda' was asked for, but this machine offers none; use 'cpu' or 'auto'.")
    return torch.device(name)
