"""How strong something is while it is faded in: 0 at the start, 1 from `epochs` on. Knows nothing of what is faded in."""

import math


def linear(epoch: float, epochs: float) -> float:
    """min(epoch / epochs, 1); 1 throughout where epochs is 0."""
    return 1.0 if epoch >= epochs else epoch / epochs


def cosine(epoch: float, epochs: float) -> float:
    """(1 - cos(pi epoch / epochs)) / 2, then 1; 1 throughout where epochs is 0."""
    return (1 - math.cos(math.pi * linear(epoch, epochs))) / 2
