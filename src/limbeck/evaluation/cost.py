"""What a model costs: parameters, arithmetic, time for an answer.

A model is called with whatever it takes: a raw module with a tensor, a tapped one with a batch. Every function leaves the
model as it was, each of its modules in the mode it had.
"""

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from limbeck.core.batch import Batch
from limbeck.core.checks import whole
from limbeck.core.errors import UsageError


def parameters(model: nn.Module) -> int:
    """The number of parameters, trainable or frozen, each shared one once; buffers do not count."""
    return sum(part.numel() for part in model.parameters())


def flops(model: nn.Module, batch: Batch | Tensor) -> int:
    """Floating-point operations of one sample's forward pass in eval mode: the mean over the batch, rounded.

    Counts matrix products and convolutions, a multiplication and an addition as two operations; element-wise work
    (activations, normalisation, pooling) is left out, as in the papers' tables. Those often give multiply-adds: half of this.
    """
    rows = _rows(batch, "flops")
    with _answering(model), FlopCounterMode(display=False) as counter:
        model(batch)
    total: int = counter.get_total_flops()
    return round(total / rows)


def latency_ms(model: nn.Module, batch: Batch | Tensor, *, size: int = 1, repeats: int = 30, warmup: int = 5) -> float:
    """Milliseconds for the answer to a batch of `size` samples: the median of `repeats` single forward passes.

    In eval mode, without a graph, on the model's device (which is waited for), after `warmup` passes that are not timed.
    The batch's samples are repeated or cut to `size`. The clock is the wall's: other work on the machine slows it, so
    compare models in one process. By custom, size 1 stands for one user's waiting time and size 64 for throughput.

    Args:
        model: Called with the batch.
        batch: At least one sample, on the model's device.
        size: Number of samples in each pass.
        repeats: Timed passes.
        warmup: Passes before them.
    """
    whole(size, "latency_ms: size")
    whole(repeats, "latency_ms: repeats")
    rows = torch.arange(size) % _rows(batch, "latency_ms")
    sized = batch.take(rows) if isinstance(batch, Batch) else batch[rows]
    device = sized.inputs.device if isinstance(sized, Batch) else sized.device
    seconds = []
    with _answering(model):
        for number in range(whole(warmup, "latency_ms: warmup", least=0) + repeats):
            _wait(device)
            start = time.perf_counter()
            model(sized)
            _wait(device)
            if number >= warmup:
                seconds.append(time.perf_counter() - start)
    return 1000 * statistics.median(seconds)


@contextmanager
def _answering(model: nn.Module) -> Iterator[None]:
    """Eval mode without gradients; afterwards every module has its own mode again, whatever happens."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def _rows(batch: Batch | Tensor, who: str) -> int:
    if len(batch) == 0:
        raise UsageError(f"{who}: the batch is empty; give at least one sample.")
    return len(batch)
