"""Handwritten digits that come with scikit-learn: 1797 images of 8 x 8 pixels, ten classes, no download."""

from functools import cache
from typing import final

import torch
from torch import Tensor

from limbeck.data.noise import noisy
from limbeck.data.source import InMemory, expression


@final
class Digits(InMemory):
    """The 1797 handwritten digits of scikit-learn, float32 [1, 8, 8] in [0, 1], with label noise if asked for.

    Args:
        label_noise: Share of the labels that are flipped, in [0, 1); exactly floor(share * N + 0.5) rows.
        noise: How labels are flipped: "symmetric", "pair_flip", "instance_dependent" or "human:<file>:<key>".
        seed: Seed of the noise; the same seed flips the same labels.

    Raises:
        UsageError: label_noise lies outside [0, 1), or noise is no known kind.

    Reference: E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998.

    >>> Digits(label_noise=0.3)
    Digits(label_noise=0.3, seed=0)
    """

    def __init__(self, label_noise: float = 0.0, noise: str = "symmetric", *, seed: int = 0) -> None:
        inputs, given = (part.clone() for part in _read())
        name = expression("Digits", label_noise=label_noise, noise=noise, seed=seed)
        super().__init__(inputs, given, truth=given, name=name)
        self.labels, self.truth = noisy(self, label_noise, noise, seed=seed)


@cache
def _read() -> tuple[Tensor, Tensor]:
    """Pictures [1797, 1, 8, 8] and labels [1797], parsed once in a process."""
    from sklearn.datasets import load_digits  # slow to import, needed only here

    pixels, labels = load_digits(return_X_y=True)
    return torch.from_numpy(pixels / 16).float().view(-1, 1, 8, 8), torch.from_numpy(labels).long()
