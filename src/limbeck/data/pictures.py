"""Pictures that are decoded when they are read, one by one. Knows nothing of where they are kept."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from limbeck.core.checks import whole
from limbeck.core.errors import DataError
from limbeck.core.extras import optional
from limbeck.data.png import png
from limbeck.data.source import Scaling, Shown, Source

if TYPE_CHECKING:
    from PIL.Image import Image

_SEEN = 512  # pictures that mean and deviation of the colours are taken from


class Pictures(Source):
    """A source of colour pictures of one size, normalised by channel: (byte / 255 - mean) / std.

    Mean and standard deviation come from at most 512 pictures, evenly spread over the rows outside the fixed test split.

    Args:
        labels: int64 [N].
        classes: Class names.
        name: How the source is called in results.
        size: Height and width in pixels that every picture is brought to: the largest middle square, then scaled.
        test_rows: The rows of a fixed test split.

    Raises:
        MissingExtraError: Pillow is not installed.
    """

    def __init__(self, labels: Tensor, classes: Sequence[str], *, name: str, size: int, test_rows: Tensor | None = None) -> None:
        optional("PIL.Image", "vision", name)
        self.name, self.kind, self.classes = name, "image", tuple(classes)
        self.labels, self.test_rows = labels, test_rows
        self.size = whole(size, f"{name}: size")
        self.input_shape = (3, size, size)
        self._scaling: Scaling | None = None

    @abstractmethod
    def picture(self, row: int) -> "Image":
        """The picture as it is kept."""

    def pixels(self, row: int) -> Tensor:
        """The picture at the wanted size, uint8 [3, H, W].

        Raises:
            DataError: It cannot be decoded.
        """
        from PIL import Image, ImageOps

        try:
            fitted = ImageOps.fit(self.picture(row).convert("RGB"), (self.size, self.size), Image.Resampling.BICUBIC)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise DataError(
                f"{self.name}: the picture of row {row} ({self.place(row)}) cannot be read; mend or remove it."
            ) from error
        return torch.from_numpy(np.array(fitted)).permute(2, 0, 1)

    def place(self, row: int) -> str:
        """Where the picture of a row is kept, for messages."""
        return self.classes[int(self.labels[row])]

    @property
    def scaling(self) -> Scaling:
        """How bytes become floats; worked out once."""
        if self._scaling is None:
            rows = self.open_rows
            rows = rows[torch.linspace(0, len(rows) - 1, min(_SEEN, len(rows))).long()]
            seen = torch.stack([self.pixels(row) for row in rows.tolist()])
            self._scaling = Scaling.of(seen, torch.arange(len(seen)))
        return self._scaling

    def read(self, rows: Tensor) -> tuple[Tensor, Tensor | None]:
        """The pictures of these rows, float32 [B, 3, H, W]."""
        return self.scaling(torch.stack([self.pixels(row) for row in rows.tolist()])), None

    def show(self, row: int) -> Shown:
        """The picture as the models see it."""
        return Shown("image", png=png(self.pixels(row)))
