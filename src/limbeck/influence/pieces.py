"""Long passes in pieces that take little memory: what a processor's cache holds, or what batch normalisation sees in a step."""

from contextlib import ExitStack
from typing import final

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from limbeck.core.batch import Batch
from limbeck.influence.gradients import Loss
from limbeck.influence.restoring import modes_restored, random_state, statistics_untouched

NUMBERS, DEVICE_NUMBERS = 2**23, 2**27
"""About how many numbers the modules of a model give for the samples of a piece, on the processor (more are written to memory and
read again) and on another device."""
MEETING = 64
"""Samples that share their statistics where batch normalisation mixes them: about as many as in a batch of a training step."""
TRIAL = 16
"""Samples that are tried whole and in two halves."""
TOLERANCE = 1e-3
"""Largest difference between the losses of the two, in parts of the largest loss."""


@final
class Pieces:
    """Cuts batches whose mean gradient is asked for; whether that may be, and how finely, is found out at the first batch.

    Batches stay whole wherever a sample's loss depends on which others go through the model with it, but for batch normalisation
    in train mode: there a piece has `MEETING` samples to twice as many, spread evenly over the batch, and its own statistics, as
    a training step has (decision 0019).

    Args:
        model: Called with a batch, answers with `Outputs`, in the mode of the passes to come.
        loss: One value per sample.
    """

    def __init__(self, model: nn.Module, loss: Loss) -> None:
        self.model, self.loss = model, loss
        self.rows: int | None = None
        self.mixing = False

    def __call__(self, batch: Batch) -> list[Batch]:
        """The batch in pieces of about one size."""
        if self.rows is None:
            self.rows = self._found(batch.take(slice(0, TRIAL)))
        if self.mixing:
            count = max(1, len(batch) // MEETING)
            return [batch.take(slice(number, None, count)) for number in range(count)] if count > 1 else [batch]
        return batch.split(-(-len(batch) // self.rows)) if self.rows and len(batch) > self.rows else [batch]

    def _found(self, few: Batch) -> int:
        """Samples of a piece; 0 where batches stay whole."""
        modules = list(self.model.modules())
        norms = [module for module in modules if isinstance(module, _BatchNorm)]
        self.mixing = any(norm.training or norm.running_mean is None for norm in norms)
        if self.mixing or len(few) < 2:
            return 0
        sizes: list[int] = []

        def hook(_module: nn.Module, _inputs: object, output: object) -> None:
            sizes.append(output.numel() if isinstance(output, Tensor) else 0)

        with ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            stack.enter_context(statistics_untouched(self.model))
            stack.enter_context(random_state(torch.get_rng_state()))
            for module in modules:  # masks are drawn for a whole batch at once, and would hide what is asked
                if isinstance(module, _DropoutNd):
                    stack.enter_context(modes_restored(module, training=False))
            halves = torch.cat([self.loss(self.model, half) for half in few.split(2)])
            handles = [module.register_forward_hook(hook) for module in modules if not any(True for _ in module.children())]
            try:
                whole = self.loss(self.model, few)
            finally:
                for handle in handles:
                    handle.remove()
        if not torch.allclose(halves, whole, rtol=0, atol=TOLERANCE * float(whole.abs().max())):
            return 0
        numbers = NUMBERS if few.index.device.type == "cpu" else DEVICE_NUMBERS
        return max(1, numbers * len(few) // max(1, sum(sizes)))
