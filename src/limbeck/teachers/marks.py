"""By what samples and models are known again: a number per sample, a digest per model. Against mistakes, not against malice."""

import hashlib
from collections.abc import Mapping
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from limbeck.core.batch import Batch

BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def marks(batch: Batch) -> Tensor:
    """A number for each sample's inputs and mask, bit by bit: sum of r_j x_j modulo 2^64, with fixed odd r_j, int64 [B].

    Another picture, another crop of it, other token ids or another mask give another number, but for a chance of about 2^-32;
    labels have no part in it. Whole-number arithmetic: the same on every device.
    """
    parts = [_bits(batch.inputs)] + ([] if batch.mask is None else [_bits(batch.mask)])
    values = torch.cat(parts, 1)
    return (values * _factors(values.shape[1]).to(values.device)).sum(1)


def fingerprint(state: Mapping[str, Tensor]) -> str:
    """A digest of a model's weights: names, types, shapes and bytes of its state, in order of the names."""
    digest = hashlib.sha256()
    for name in sorted(state):
        part = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {part.dtype} {list(part.shape)}\n".encode())
        digest.update(part.flatten().view(torch.uint8).numpy().tobytes() if part.numel() else b"")
    return digest.hexdigest()


def digest_of(numbers: Tensor) -> str:
    """A digest of whole numbers, int64 [N]."""
    return hashlib.sha256(numbers.cpu().contiguous().numpy().astype("<i8").tobytes()).hexdigest()


def _bits(part: Tensor) -> Tensor:
    """A tensor's bits as whole numbers, [B, D] int64."""
    flat = part.detach().flatten(1).contiguous()
    flat = flat.to(torch.uint8) if flat.dtype == torch.bool else flat
    return flat.view(BITS[flat.element_size()]).to(torch.int64)


@lru_cache(maxsize=8)
def _factors(count: int) -> Tensor:
    """Odd numbers of 64 bits that look like random ones: the splitmix64 sequence, written out so that it never changes."""
    z = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return torch.from_numpy(((z ^ (z >> np.uint64(31))) | np.uint64(1)).view(np.int64))
