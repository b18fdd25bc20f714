"""What a run tells of how far it is. Knows nothing of screens."""

from typing import Protocol, final


class Progress(Protocol):
    """Told by a run how far it is. A run is made of units: one training of one net each, of a known number of steps."""

    def start(self, total_units: int) -> None:
        """The run begins; it will have this many units."""

    def unit(self, name: str, steps: int) -> None:
        """The next unit begins, and the one before has ended."""

    def advance(self, steps: int) -> None:
        """This many further steps of the unit are done."""

    def done(self) -> None:
        """The run has ended."""


@final
class Silent:
    """Says nothing."""

    def start(self, total_units: int) -> None:
        """Nothing."""

    def unit(self, name: str, steps: int) -> None:
        """Nothing."""

    def advance(self, steps: int) -> None:
        """Nothing."""

    def done(self) -> None:
        """Nothing."""
