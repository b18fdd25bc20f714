"""CIFAR-10, CIFAR-100 and SVHN by torchvision's own loaders, which check every file's checksum before they open it."""

from collections.abc import Sequence
from typing import final

import numpy as np
import torch

from limbeck.core.errors import DataError
from limbeck.core.extras import optional
from limbeck.data.arrays import as_inputs, prepare
from limbeck.data.noise import noisy
from limbeck.data.source import InMemory, expression


class _TorchvisionSet(InMemory):
    """Training rows first, then torchvision's test rows as the fixed test split; bytes, normalised by the training rows."""

    def __init__(self, root: str, download: bool, label_noise: float, noise: str, seed: int) -> None:
        kind = type(self).__name__
        name = expression(kind, root, label_noise=label_noise, noise=noise, seed=seed)
        datasets = optional("torchvision.datasets", "vision", kind)
        parts = []
        for part in ("train", "test"):
            said = {"split": part} if kind == "SVHN" else {"train": part == "train"}
            try:
                parts.append(getattr(datasets, kind)(root, download=download, **said))
            except (RuntimeError, OSError) as error:
                what = (
                    f"the download failed ({error})" if download else "say download=True once, or name the folder that holds it"
                )
                raise DataError(f"{name}: there is no complete {kind} in '{root}'; {what}.") from error
        labels = [
            torch.as_tensor(np.asarray(part.labels if kind == "SVHN" else part.targets), dtype=torch.int64) for part in parts
        ]
        classes: Sequence[str] = getattr(parts[0], "classes", [str(digit) for digit in range(10)])
        inputs = as_inputs(np.concatenate([part.data for part in parts]), name)
        super().__init__(inputs, torch.cat(labels), classes=classes, truth=torch.cat(labels), name=name)
        self.test_rows = torch.arange(len(labels[0]), len(self))
        prepare(self)
        self.labels, self.truth = noisy(self, label_noise, noise, seed=seed)


@final
class CIFAR10(_TorchvisionSet):
    """CIFAR-10: 50000 training and 10000 test images [3, 32, 32] of ten classes.

    Args:
        root: The folder that holds, or will hold, `cifar-10-batches-py`.
        download: Load it from the authors' site when it is not there.
        label_noise: Share of the training labels that are flipped, in [0, 1).
        noise: How: "symmetric", "pair_flip", "instance_dependent" or "human:<file>:<key>".
        seed: Seed of the noise.

    Without the files it is a DataError, without torchvision a MissingExtraError.
    """

    def __init__(
        self, root: str, *, download: bool = False, label_noise: float = 0.0, noise: str = "symmetric", seed: int = 0
    ) -> None:
        super().__init__(root, download, label_noise, noise, seed)


@final
class CIFAR100(_TorchvisionSet):
    """CIFAR-100: 50000 training and 10000 test images [3, 32, 32] of a hundred classes.

    Args:
        root: The folder that holds, or will hold, `cifar-100-python`.
        download: Load it from the authors' site when it is not there.
        label_noise: Share of the training labels that are flipped, in [0, 1).
        noise: How: "symmetric", "pair_flip", "instance_dependent" or "human:<file>:<key>".
        seed: Seed of the noise.

    Without the files it is a DataError, without torchvision a MissingExtraError.
    """

    def __init__(
        self, root: str, *, download: bool = False, label_noise: float = 0.0, noise: str = "symmetric", seed: int = 0
    ) -> None:
        super().__init__(root, download, label_noise, noise, seed)


@final
class SVHN(_TorchvisionSet):
    """SVHN: 73257 training and 26032 test images [3, 32, 32] of ten classes, the digits of house numbers.

    Args:
        root: The folder that holds, or will hold, `train_32x32.mat` and `test_32x32.mat`.
        download: Load it from the authors' site when it is not there.
        label_noise: Share of the training labels that are flipped, in [0, 1).
        noise: How: "symmetric", "pair_flip", "instance_dependent" or "human:<file>:<key>".
        seed: Seed of the noise.

    Without the files it is a DataError, without torchvision a MissingExtraError.
    """

    def __init__(
        self, root: str, *, download: bool = False, label_noise: float = 0.0, noise: str = "symmetric", seed: int = 0
    ) -> None:
        super().__init__(root, download, label_noise, noise, seed)
