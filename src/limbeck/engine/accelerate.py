"""Several processes and mixed precision through the library accelerate."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, final

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from limbeck.core.batch import Batch
from limbeck.core.errors import UsageError


@final
class AccelerateEngine:
    """Data-parallel training under `accelerate launch` or `torchrun`; one process when started plainly.

    Args:
        precision: `fp32` or `bf16`.
        cpu: Stay on the CPU.

    Raises:
        UsageError: The precision is unknown.
    """

    def __init__(self, precision: str = "fp32", *, cpu: bool = False) -> None:
        if precision not in ("fp32", "bf16"):
            raise UsageError(f"precision must be 'fp32' or 'bf16', got {precision!r}.")
        self.precision = precision
        self.accelerator: Any = Accelerator(mixed_precision="no", cpu=cpu)  # it can't change later; see `autocast`
        self.device: torch.device = self.accelerator.device
        self.processes: int = self.accelerator.num_processes
        self.rank: int = self.accelerator.process_index

    def prepare(self, module: nn.Module) -> nn.Module:
        """The module on the device; wrapped for data-parallel training where there are several processes."""
        self.accelerator.free_memory()  # it keeps every model that it has ever prepared
        prepared: nn.Module = self.accelerator.prepare_model(module)
        return prepared

    def shard(self, batch: Batch) -> Batch:
        """This process's part of the batch: consecutive rows, equal numbers.

        Raises:
            UsageError: The batch does not divide evenly, so that the mean over processes would not be the mean over samples.
        """
        if len(batch) % self.processes:
            raise UsageError(
                f"batch_size: {len(batch)} samples do not divide among {self.processes} processes; choose a multiple."
            )
        count = len(batch) // self.processes
        return batch.take(slice(self.rank * count, (self.rank + 1) * count)).to(self.device)

    @contextmanager
    def autocast(self) -> Iterator[None]:
        """Bfloat16 forward passes where asked for: here and not in the wrapped model, whose every call would be cast."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            yield

    def local(self, module: nn.Module) -> AbstractContextManager[None]:
        """Gradients stay with this process."""
        context: AbstractContextManager[None] = self.accelerator.no_sync(module)
        return context

    def backward(self, loss: Tensor) -> None:
        """Add the loss's gradients to the parameters, averaged over the processes."""
        self.accelerator.backward(loss)

    def gather(self, values: Tensor) -> Tensor:
        """The values of all processes in rank order."""
        everyone: Tensor = self.accelerator.gather(values)
        return everyone
