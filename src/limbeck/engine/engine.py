"""What a training loop asks of the machine."""

from contextlib import AbstractContextManager
from typing import Protocol

import torch
from torch import Tensor, nn

from limbeck.core.batch import Batch


class Engine(Protocol):
    """One process or many, one precision or mixed. Every process sees every batch whole and takes its own part of it.

    Attributes:
        device: Where tensors live.
        processes: How many processes train together, >= 1.
        rank: This process's place, 0-based; 0 writes files.
    """

    device: torch.device
    processes: int
    rank: int

    def prepare(self, module: nn.Module) -> nn.Module:
        """The module on the device, wrapped so that its gradients are averaged over the processes."""

    def shard(self, batch: Batch) -> Batch:
        """This process's part of a batch, on the device."""

    def autocast(self) -> AbstractContextManager[None]:
        """The precision of forward passes."""

    def local(self, module: nn.Module) -> AbstractContextManager[None]:
        """Backward passes inside keep their gradients to this process, until the first one outside."""

    def backward(self, loss: Tensor) -> None:
        """Add the loss's gradients to the parameters."""

    def gather(self, values: Tensor) -> Tensor:
        """[B] of each process -> all of them in rank order."""
