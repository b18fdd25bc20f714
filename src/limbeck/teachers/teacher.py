"""Whoever answers for the teacher."""

from abc import ABC, abstractmethod

from torch import nn

from limbeck.core.batch import Batch
from limbeck.core.outputs import Outputs


class Teacher(nn.Module, ABC):
    """Called with a batch, answers with `Outputs`. A module, so that what it trains is saved and synchronised by construction."""

    @abstractmethod
    def forward(self, batch: Batch) -> Outputs:
        """What the teacher says of the batch, without a graph."""

    @abstractmethod
    def tap(self, names: tuple[str, ...]) -> None:
        """Have `forward` return these modules' outputs as features.

        Args:
            names: Names or globs of the teacher's modules.
        """

    def classifier(self) -> nn.Linear | None:
        """A frozen copy of its classifier; None where it has no linear one, or more than one."""
        return None
