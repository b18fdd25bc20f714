"""Label noise for language: the counted labels of some samples are replaced. Knows nothing of files or of training."""

from typing import Literal

import torch
from torch import Tensor

TokenNoise = Literal["swapped", "random"]


def swapped(labels: Tensor, mask: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Give `count` samples, drawn at random, the counted labels of another sample, over and over until all places are filled.

    The labels are then fluent and wrong, as in an answer to another question. Where both samples say the same, nothing changes.

    Shapes: int64 [N, L], bool [N, L] -> int64 [N, L]; N at least 2, and every sample with a label that counts.
    """
    order, noisy = torch.randperm(len(labels), generator=generator).tolist(), labels.clone()
    for place, row in enumerate(order[:count]):
        donor = order[(place + 1) % len(order)]
        given = labels[donor][mask[donor]]
        wanted = int(mask[row].sum())
        noisy[row][mask[row]] = given.repeat(-(-wanted // len(given)))[:wanted]
    return noisy


def random_tokens(labels: Tensor, mask: Tensor, vocabulary: int, count: int, generator: torch.Generator) -> Tensor:
    """Replace every counted label of `count` samples, drawn at random, by one of the other tokens with equal chance.

    Shapes: int64 [N, L], bool [N, L] -> int64 [N, L].
    """
    rows = torch.randperm(len(labels), generator=generator)[:count]
    shift = torch.randint(1, vocabulary, labels[rows].shape, generator=generator) * mask[rows]
    return labels.index_copy(0, rows, (labels[rows] + shift) % vocabulary)
