"""Pictures in folders, one folder per class."""

from pathlib import Path
from typing import TYPE_CHECKING, final

import torch

from limbeck.core.errors import DataError
from limbeck.data.files import existing
from limbeck.data.noise import noisy
from limbeck.data.pictures import Pictures
from limbeck.data.source import expression
from limbeck.data.validity import check

if TYPE_CHECKING:
    from PIL.Image import Image

_ENDINGS = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
_TEST = ("test", "val", "valid", "validation")


@final
class ImageFolder(Pictures):
    """Pictures in folders: `path/<class>/*.png`, or `path/train/<class>/...` and `path/test/<class>/...` for a fixed test split.

    Classes are numbered in alphabetical order, rows go by file name, training rows first; `val` stands for `test` where there
    is no `test`. Pictures are decoded when they are read.

    Args:
        path: The folder.
        size: Height and width in pixels that every picture is brought to.
        label_noise: Share of the labels outside the test split that are flipped, in [0, 1).
        noise: How: "symmetric", "pair_flip", "instance_dependent" or "human:<file>:<key>".
        seed: Seed of the noise.

    Raises:
        DataError: The folder is missing or holds no pictures, a class has none, or a picture cannot be read.
    """

    def __init__(self, path: str, size: int = 32, *, label_noise: float = 0.0, noise: str = "symmetric", seed: int = 0) -> None:
        said: dict[str, object] = {} if size == 32 else {"size": size}
        name = expression("ImageFolder", path, label_noise=label_noise, noise=noise, seed=seed, **said)
        root = existing(path, name, folder=True)
        tests = [root / part for part in _TEST if (root / part).is_dir()][:1] if (root / "train").is_dir() else []
        roots = [root / "train", *tests] if (root / "train").is_dir() else [root]
        classes = sorted({folder.name for part in roots for folder in part.iterdir() if folder.is_dir()})
        found = [
            (file, label, part in tests)
            for part in roots
            for label, word in enumerate(classes)
            for file in _pictures(part / word)
        ]
        if not found:
            raise DataError(f"{name}: '{path}' holds no folders of pictures; put each class into a folder of its own.")
        self.files = [file for file, _, _ in found]
        test_rows = torch.tensor([row for row, (_, _, is_test) in enumerate(found) if is_test]) if tests else None
        super().__init__(torch.tensor([label for _, label, _ in found]), classes, name=name, size=size, test_rows=test_rows)
        check(self)
        self.labels, self.truth = noisy(self, label_noise, noise, seed=seed)

    def picture(self, row: int) -> "Image":
        """The picture in the row's file."""
        from PIL import Image

        with Image.open(self.files[row]) as image:
            image.load()
            return image

    def place(self, row: int) -> str:
        """The row's file."""
        return str(self.files[row])


def _pictures(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.suffix.lower() in _ENDINGS) if folder.is_dir() else []
