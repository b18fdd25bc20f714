"""Random generators that depend on nothing but the numbers they are made from; the global generator stays untouched."""

import numpy as np
import torch

from limbeck.core.checks import whole


def generator_for(*words: int) -> torch.Generator:
    """A generator seeded by these numbers of at least 0 together: (seed, epoch, step), say."""
    state = np.random.SeedSequence(words).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]) >> 1)


def seed_of(value: int, who: str) -> int:
    """The value when it is a whole number of at least 0, modulo 2^32, so that it can seed every library used here."""
    return whole(value, f"{who}: seed", least=0) % 2**32
