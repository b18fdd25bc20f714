"""How a training ends: averaged weights take the place of the last ones, and terms choose on validation samples."""

from dataclasses import dataclass

from limbeck.align.taps import Tapped
from limbeck.core.batch import Batch
from limbeck.data.loader import Loader
from limbeck.distiller import Distiller
from limbeck.training.averages.average import Average, twin


@dataclass(frozen=True)
class Ending:
    """What is done to a trained distiller before its net is kept.

    Args:
        average: The average whose weights are kept; None for the last weights.
        loader: Training batches, for the running statistics that averaged weights need.
        validation: Samples on which terms choose, such as DHO its mixture; test samples have no say.
    """

    average: Average | None
    loader: Loader
    validation: Batch

    def bring(self, distiller: Distiller) -> None:
        """Change the distiller for good."""
        if self.average is not None:
            self.average.place(distiller, self.loader)
        distiller.tune(self.validation)

    def net(self, distiller: Distiller) -> Tapped:
        """The net that would be kept if the training ended now, which goes on untouched."""
        if self.average is None and not distiller.objective.tunes:
            return distiller.deployed()
        copy = twin(distiller)
        self.bring(copy)
        return copy.deployed()

    @property
    def missed(self) -> list[str]:
        """A sentence where the average never began."""
        if self.average is None or self.average.weights() is not None:
            return []
        return [f"{self.average!r} never began, so the last weights were kept: let it begin earlier, or train longer."]
