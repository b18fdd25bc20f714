"""Turns image sheets into plain arrays that `Arrays` reads: CIFAR-10 with clean or human labels, or MNIST.

python benchmarks/prepare_data.py ../shared/data cifar10 --per-class 500 --labels worst --out cifar10_worst.npz
python benchmarks/prepare_data.py ../shared/data mnist --per-class 500 --out mnist.npz

The file holds `inputs` uint8 [N, 32, 32, 3] or [N, 28, 28], `labels`, `true_labels`, `is_test`, `class_names` and `row`, each
row's number in the sheets (training and test rows are numbered apart). The first rows of each class are taken, in the order of
the sheets, training rows first; test labels are always clean. `--halve` takes the mean of every 2 x 2 pixels: a quarter of the
work.
"""

import argparse
import io
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from ended import ended

HUMAN = ("worst", "random1", "random2", "random3", "aggregate")


def read_sheets(arrays: Mapping[str, np.ndarray], key: str, rows: np.ndarray) -> np.ndarray:
    """Images of these sorted rows, uint8 [R, H, W, C], from lossless sheets; only the sheets that hold one are decoded."""
    data, offsets, side = arrays[f"{key}_sheets"].tobytes(), arrays[f"{key}_offsets"], int(arrays["sheet_side"])
    height, width, channels = (int(n) for n in arrays["image_shape"])
    pictures = []
    for page in np.unique(rows // side**2):
        sheet = np.asarray(Image.open(io.BytesIO(data[offsets[page] : offsets[page + 1]])).convert("RGB"))
        tiles = sheet.reshape(side, height, side, width, channels).swapaxes(1, 2).reshape(-1, height, width, channels)
        pictures.append(tiles[rows[rows // side**2 == page] % side**2])
    return np.concatenate(pictures)


def first_of_each(labels: np.ndarray, per_class: int | None) -> np.ndarray:
    """The first `per_class` rows of every class, sorted; all rows for None."""
    if per_class is None:
        return np.arange(len(labels))
    return np.sort(np.concatenate([np.flatnonzero(labels == label)[:per_class] for label in np.unique(labels)]))


def cifar10(folder: Path, per_class: int | None, test_per_class: int | None, labels: str) -> dict[str, np.ndarray]:
    """CIFAR-10; `labels` is "clean" or what people answered in CIFAR-10N."""
    with np.load(folder / "cifar10.npz") as arrays:
        clean = {part: arrays[f"{part}_labels"].astype(np.int64) for part in ("train", "test")}
        rows = {"train": first_of_each(clean["train"], per_class), "test": first_of_each(clean["test"], test_per_class)}
        images = {part: read_sheets(arrays, part, rows[part]) for part in rows}
        names = arrays["class_names"]
    given = dict(clean)
    if labels != "clean":
        with np.load(folder / "cifar_human_labels.npz") as human:
            given["train"] = human[f"cifar10n_{labels}"].astype(np.int64)
    return joined(images, {k: given[k][rows[k]] for k in rows}, {k: clean[k][rows[k]] for k in rows}, rows, names)


def mnist(folder: Path, per_class: int | None, test_per_class: int | None) -> dict[str, np.ndarray]:
    """MNIST, as far as the sheets hold it."""
    with np.load(folder / "mnist.npz") as arrays:
        labels = {part: arrays[f"{part}_labels"].astype(np.int64) for part in ("train", "test")}
        rows = {"train": first_of_each(labels["train"], per_class), "test": first_of_each(labels["test"], test_per_class)}
        images = {part: arrays[f"{part}_images"][rows[part]] for part in rows}
    own = {part: labels[part][rows[part]] for part in rows}
    return joined(images, own, own, rows, np.array([str(digit) for digit in range(10)]))


def halved(images: np.ndarray) -> np.ndarray:
    """The mean of every 2 x 2 pixels: uint8 [N, H, W, ...] -> [N, H / 2, W / 2, ...]."""
    count, height, width, *channels = images.shape
    tiles = images.reshape(count, height // 2, 2, width // 2, 2, *channels).astype(np.float32)
    return np.rint(tiles.mean((2, 4))).astype(np.uint8)


def joined(images: dict, given: dict, true: dict, rows: dict, names: np.ndarray) -> dict[str, np.ndarray]:
    """Training rows and test rows below one another, under the keys that `Arrays` reads."""
    both = {"inputs": images, "labels": given, "true_labels": true, "row": rows}
    stacked = {key: np.concatenate([part["train"], part["test"]]) for key, part in both.items()}
    is_test = np.repeat(np.array([0, 1], dtype=np.uint8), [len(rows["train"]), len(rows["test"])])
    return {**stacked, "is_test": is_test, "class_names": np.array([str(name) for name in names])}


def main() -> None:
    """Read the words, write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the folder that holds cifar10.npz, cifar_human_labels.npz, mnist.npz")
    parser.add_argument("name", choices=["cifar10", "mnist"], help="which of them")
    parser.add_argument("--per-class", type=int, help="training rows of each class; all when left out")
    parser.add_argument("--test-per-class", type=int, help="test rows of each class; all when left out")
    parser.add_argument("--labels", choices=["clean", *HUMAN], default="clean", help="labels of CIFAR-10's training rows")
    parser.add_argument("--halve", action="store_true", help="half the pictures' width and height")
    parser.add_argument("--out", type=Path, required=True, help="the .npz file to write")
    said = parser.parse_args()
    if said.name == "mnist" and said.labels != "clean":
        parser.error("human labels are there for cifar10 alone")
    if said.name == "cifar10":
        arrays = cifar10(said.folder, said.per_class, said.test_per_class, said.labels)
    else:
        arrays = mnist(said.folder, said.per_class, said.test_per_class)
    if said.halve:
        arrays["inputs"] = halved(arrays["inputs"])
    said.out.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(said.out, **arrays)
    wrong = float((arrays["labels"] != arrays["true_labels"])[arrays["is_test"] == 0].mean())
    count, tests = len(arrays["labels"]), int(arrays["is_test"].sum())
    print(f"{said.out}: {count} rows, {tests} of them test, {wrong:.1%} of training labels wrong")


if __name__ == "__main__":
    sys.exit(ended(main))
