"""Whoever answers for the teacher."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Literal

from torch import nn

from limbeck.core.batch import Batch
from limbeck.core.outputs import Outputs

Offer = Literal["logits", "topk", "features", "reference"]


class Teacher(nn.Module, ABC):
    """Called with a batch, answers with `Outputs`. A module, so that what it trains is saved and synchronised by construction.

    Unless the run's step updates it, its answer to a sample stays the same through a run, and may be kept.

    Attributes:
        offers: What it can answer with. From logits the most probable classes can be had too; `topk` is for who knows no more.
    """

    offers: frozenset[Offer] = frozenset({"logits", "features"})

    @abstractmethod
    def forward(self, batch: Batch) -> Outputs:
        """What the teacher says of the batch, without a graph."""

    @abstractmethod
    def tap(self, names: tuple[str, ...]) -> None:
        """Have `forward` return these modules' outputs as features.

        Args:
            names: Names or globs of the teacher's modules.
        """

    @property
    def cost(self) -> Mapping[str, int | None]:
        """Its `parameters`, and the `flops` of a sample's forward pass, as far as it knows them."""
        return {"parameters": None, "flops": None}

    def classifier(self) -> nn.Linear | None:
        """A frozen copy of its classifier; None where it has no linear one, or more than one."""
        return None
