"""The reference features of the method sheets, and views on one feature of each side."""

import torch
from torch import Tensor

from limbeck.align.taps import PENULTIMATE
from limbeck.core.outputs import Views
from support.makers import featured

FS = torch.tensor([[0.5, -1, 0.3], [1.2, 0.4, -0.7], [0.1, 0.9, 0.6]], dtype=torch.float64)
FT = torch.tensor([[1, -0.5, 0.2], [0.8, 1, -0.3], [-0.4, 0.7, 1.1]], dtype=torch.float64)
_PLACES = torch.arange(16, dtype=torch.float64)
MAPS_S = ((7 * _PLACES % 11 - 5) / 5).reshape(2, 2, 2, 2)
MAPS_T = ((5 * _PLACES % 13 - 6) / 6).reshape(2, 2, 2, 2)


def pair(student: Tensor | list[list[float]], teacher: Tensor | list[list[float]], tap: str = PENULTIMATE) -> Views:
    """Views with one feature on each side."""
    own, other = (torch.as_tensor(part, dtype=torch.float64) for part in (student, teacher))
    return featured({tap: own}, {tap: other})


def rotation(size: int, seed: int = 0) -> Tensor:
    """A random orthogonal matrix."""
    draws = torch.randn(size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    basis: Tensor = torch.linalg.qr(draws).Q
    return basis
