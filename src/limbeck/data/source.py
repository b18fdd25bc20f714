"""Indexed sources of samples: a row of a source is a sample's identity for the whole run. Knows nothing of splits or models.

Language: a sample is L + 1 token ids. Its inputs are the ids but the last, its labels the ids but the first, and the mask is
true where the *label* counts in the loss: prompt and padding do not. Padding stands on the right, so that a causal model needs no
attention mask: no counted place sees it.

Just over 300 lines: the contract of a source, and what all sources share.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

import torch
from torch import Tensor

from limbeck.core.batch import UNLABELLED
from limbeck.core.errors import DataError
from limbeck.data.png import png
from limbeck.data.tokens import Tokens

Kind = Literal["image", "vector", "tokens", "language"]
Cell = str | int | float | bool | None
_TOGETHER = 4096  # rows of token ids that are compared at once


@dataclass(frozen=True)
class Shown:
    """What the report shows of a sample: one of a picture, a text or a row of a table.

    Args:
        kind: Which of the three it is.
        png: The picture as a PNG file.
        text: The text.
        row: The row, value by column name.
    """

    kind: Literal["image", "text", "row"]
    png: bytes = b""
    text: str = ""
    row: Mapping[str, Cell] = field(default_factory=dict)


class Source(ABC):
    """All that a run needs to know of a data set of N samples, whose identities are the rows 0 to N - 1.

    Attributes:
        name: The source as one would type it, `Digits(label_noise=0.3, seed=0)`.
        kind: What a sample is: an image [C, H, W], a vector [F], token ids [L], or language: token ids [L] whose next ones are
            the labels.
        classes: The names of the C classes; empty for language.
        labels: int64 [N], as given, with noise if there is any, -1 for a training row that has none; for language [N, L], the
            next token of each.
        truth: Like the labels, the true ones where they are known; for evaluation only. Of a row without a label nobody asks.
        test_rows: The rows of a test split that the data set fixes; None when a split is to be cut.
        query_rows: The rows of a trusted query set that the user named; None when it is to be cut from the training split.
        input_shape: The shape of one sample.
        vocabulary: For tokens and language, how many ids there are; else None.
        tokenizer: What turned text into ids; None where there is none, or nobody knows it.
        groups: int64 [N], the domain of each sample; for language splits keep their shares. None for one domain.
        group_names: The names of the domains.
        follows: int64 [N], the row that each one goes along with, most often itself: where that row is trained on this one is
            too, and held-out parts have only rows that follow themselves. None: all do.
        meta: Further columns, [N, ...] each, which batches carry under their names.
        doubts: Sentences about what is allowed and yet hardly meant; the plan and the report say them.
    """

    name: str
    kind: Kind
    classes: tuple[str, ...]
    labels: Tensor
    truth: Tensor | None = None
    test_rows: Tensor | None = None
    query_rows: Tensor | None = None
    input_shape: tuple[int, ...]
    vocabulary: int | None = None
    tokenizer: Tokens | None = None
    groups: Tensor | None = None
    group_names: tuple[str, ...] = ()
    follows: Tensor | None = None
    meta: Mapping[str, Tensor] = MappingProxyType({})
    doubts: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        return self.name

    @abstractmethod
    def read(self, rows: Tensor) -> tuple[Tensor, Tensor | None]:
        """The inputs of these rows and, for padded tokens, which of them count.

        Shapes: int64 [B] -> float32 [B, ...] or int64 [B, L], and bool [B, L] or None.
        """

    @abstractmethod
    def show(self, row: int) -> Shown:
        """The sample as a person wants to see it."""

    @property
    def open_rows(self) -> Tensor:
        """The rows outside the fixed test split, int64, sorted: all rows where none is fixed."""
        return rows_without(len(self), self.test_rows)

    @property
    def labelled(self) -> Tensor:
        """Which rows have a label, bool [N]."""
        return self.labels != UNLABELLED if self.labels.dim() == 1 else torch.ones(len(self), dtype=torch.bool)

    @property
    def drawn_by(self) -> tuple[Tensor, tuple[str, ...]] | None:
        """What a mixture draws by, int64 [N] and names: the domains; without any, whether a row has a label; None: nothing."""
        if self.groups is not None:
            return self.groups, self.group_names
        return None if bool(self.labelled.all()) else ((~self.labelled).long(), ("labelled", "unlabelled"))

    @property
    def leading(self) -> Tensor:
        """The rows that follow themselves, int64, sorted."""
        rows = torch.arange(len(self))
        return rows if self.follows is None else rows[self.follows == rows]

    def led_by(self, rows: Tensor) -> Tensor:
        """These rows, which follow themselves, and those that follow them."""
        return rows if self.follows is None else torch.isin(self.follows, rows).nonzero().squeeze(1)

    @property
    def outputs(self) -> int:
        """How many logits a model answers with: one for each class, or for each token of the vocabulary."""
        return self.vocabulary or 0 if self.kind == "language" else len(self.classes)

    @property
    def strata(self) -> Tensor:
        """int64 [N], what splits keep the shares of: classes, by true labels where known; for language the domains.

        Of a row without a label it says nothing.
        """
        if self.kind != "language":
            return self.labels if self.truth is None else self.truth
        return torch.zeros(len(self), dtype=torch.int64) if self.groups is None else self.groups

    @property
    def strata_names(self) -> tuple[str, ...]:
        """What the strata are called."""
        return self.classes if self.kind != "language" else self.group_names or ("all",)

    def right(self, labels: Tensor) -> Tensor | None:
        """Of which samples these labels are the true ones, bool [N]; None where nobody knows. For language: all that count.

        Where there is no label, none is wrong.
        """
        if self.truth is None or labels.dim() == 1:
            return None if self.truth is None else (labels == self.truth) | (labels == UNLABELLED)
        kept = []
        for rows in torch.split(torch.arange(len(self)), _TOGETHER):
            equal, mask = labels[rows] == self.truth[rows], self.read(rows)[1]
            kept.append((equal if mask is None else equal | ~mask).all(1))
        return torch.cat(kept)


@dataclass(frozen=True)
class Scaling:
    """Turns stored bytes into floats, (byte / 255 - mean) / std per channel.

    Args:
        mean: float32 [C, 1, 1].
        std: float32 [C, 1, 1], above 0.
    """

    mean: Tensor
    std: Tensor

    @staticmethod
    def of(pixels: Tensor, rows: Tensor) -> "Scaling":
        """Mean and standard deviation of each channel over these rows. A constant channel is only centred.

        Shapes: uint8 [N, C, H, W], int64 [R].
        """
        counts = torch.stack([torch.bincount(pixels[rows, c].flatten(), minlength=256) for c in range(pixels.shape[1])]).double()
        values, share = torch.arange(256).double() / 255, counts / counts.sum(1, keepdim=True)
        mean = share @ values
        std = ((values - mean[:, None]).square() * share).sum(1).sqrt()
        std = torch.where(std > 0, std, torch.ones_like(std))
        return Scaling(mean.float().view(-1, 1, 1), std.float().view(-1, 1, 1))

    def __call__(self, pixels: Tensor) -> Tensor:
        """The scaled floats of these bytes, uint8 [B, C, H, W] -> float32 [B, C, H, W]."""
        return pixels.float().div_(255).sub_(self.mean).div_(self.std)


class InMemory(Source):
    """A source whose samples are tensors in memory.

    The kind follows from the tensors: with a vocabulary language for labels [N, L] and token ids for labels [N]; without one an
    image for [N, C, H, W], else a vector.
    Readers build on it and set `test_rows`, `query_rows` and how a row is shown.

    Args:
        inputs: [N, C, H, W] or [N, F] floats, or int64 token ids [N, L]. uint8 images are kept as bytes and scaled when read;
            set `scaling` for that.
        labels: int64 [N], or [N, L]: the next token of each.
        classes: Class names; None: the numbers from 0 to the largest label, for language none.
        truth: Like the labels, the true ones where known.
        name: How the source is called in results.
        vocabulary: For tokens and language, how many ids there are.
        mask: bool [N, L], true where a token counts; for language, where a label does.

    Raises:
        DataError: Inputs, labels, true labels and mask differ in length.
    """

    def __init__(
        self,
        inputs: Tensor,
        labels: Tensor,
        *,
        classes: Sequence[str] | None = None,
        truth: Tensor | None = None,
        name: str = "InMemory()",
        vocabulary: int | None = None,
        mask: Tensor | None = None,
    ) -> None:
        for what, part in {"labels": labels, "true labels": truth, "mask rows": mask}.items():
            if part is not None and len(part) != len(inputs):
                raise DataError(f"{name}: {len(inputs)} samples and {len(part)} {what}; give one for each sample.")
        self.name, self.labels, self.truth, self.vocabulary = name, labels, truth, vocabulary
        if vocabulary is not None:
            self.kind = "language" if labels.dim() == 2 else "tokens"
        else:
            self.kind = "image" if inputs.dim() == 4 else "vector"
        named = () if self.kind == "language" else numbers(name, labels, truth) if classes is None else classes
        self.classes = tuple(named)
        self.inputs, self.mask = inputs, mask
        self.input_shape = tuple(inputs.shape[1:])
        self.scaling: Scaling | None = None
        self.columns: tuple[str, ...] = ()

    def read(self, rows: Tensor) -> tuple[Tensor, Tensor | None]:
        """The inputs of these rows and which of their tokens count."""
        inputs = self.inputs[rows]
        if self.scaling is not None:
            inputs = self.scaling(inputs)
        return inputs, None if self.mask is None else self.mask[rows]

    def show(self, row: int) -> Shown:
        """An image as picture, a vector as row of numbers, tokens as text where there is a tokenizer, else as their ids."""
        sample = self.inputs[row]
        if self.kind == "language":
            return Shown("text", text=self._spoken(row))
        if self.kind == "image":
            return Shown("image", png=png(sample))
        if self.kind == "tokens":
            kept = sample if self.mask is None else sample[self.mask[row]]
            return Shown("text", text=" ".join(str(token) for token in kept.tolist()))
        values = sample.flatten().tolist()
        names = self.columns or tuple(str(i) for i in range(len(values)))
        return Shown("row", row=dict(zip(names, values, strict=True)))

    def _spoken(self, row: int) -> str:
        """The text of a row with its labels as given: what leads up to the first one that counts, then those that do."""
        counted = torch.ones_like(self.labels[row], dtype=torch.bool) if self.mask is None else self.mask[row]
        first = int(counted.nonzero()[0]) if counted.any() else len(counted)
        ids = [*self.inputs[row, : first + 1].tolist(), *self.labels[row][counted].tolist()]
        return " ".join(map(str, ids)) if self.tokenizer is None else self.tokenizer.decode(ids)


def numbers(who: str, *labels: Tensor | None) -> tuple[str, ...]:
    """Class names where there are none: "0" to the largest label.

    Raises:
        DataError: The largest label speaks of more classes than there are rows.
    """
    known = [part for part in labels if part is not None and len(part)]
    top = max((int(part.max()) for part in known), default=-1)
    if known and top >= len(known[0]):
        raise DataError(
            f"{who}: label {top} means {top + 1} classes, more than the {len(known[0])} rows; number the classes from 0."
        )
    return tuple(str(label) for label in range(top + 1))


def rows_without(count: int, taken: Tensor | None) -> Tensor:
    """The rows 0 to count - 1 that are not taken, int64, sorted."""
    kept = torch.ones(count, dtype=torch.bool)
    if taken is not None:
        kept[taken] = False
    return kept.nonzero().squeeze(1)


def expression(
    reader: str, *places: str, label_noise: float = 0.0, noise: str = "symmetric", seed: int = 0, **named: object
) -> str:
    """How one would type the reader: arguments without a name, then those that differ from what is usual."""
    words = [repr(place) for place in places] + [f"{name}={value!r}" for name, value in named.items()]
    if label_noise:
        words.append(f"label_noise={label_noise:g}")
    if noise != "symmetric":
        words.append(f"noise={noise!r}")
    if label_noise:
        words.append(f"seed={seed}")
    return f"{reader}({', '.join(words)})"
