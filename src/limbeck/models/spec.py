"""How a net is named in a recipe and built for a data set. Knows nothing of training, taps or where data comes from."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import ClassVar, Literal, final, get_args

from torch import nn

from limbeck.core.checks import whole
from limbeck.core.errors import UsageError

Kind = Literal["image", "vector", "tokens", "language"]

SHAPE_WORDS: dict[Kind, str] = {
    "image": "(channels, height, width)",
    "vector": "(features,)",
    "tokens": "(length,)",
    "language": "(length,)",
}
DIMENSIONS: dict[Kind, int] = {"image": 3, "vector": 1, "tokens": 1, "language": 1}


@dataclass(frozen=True)
class DataSpec:
    """All that a net must know of the data.

    Args:
        kind: "image", "vector", "tokens" (one answer to a text) or "language" (the next token at every place).
        input_shape: Shape of one sample: (channels, height, width), (features,) or (length,).
        classes: Number of classes, at least 2; for language the size of the vocabulary.
        vocabulary: Number of different token ids; needed for tokens and language, None otherwise.

    Raises:
        UsageError: A part is missing or does not fit the kind.
    """

    kind: Kind
    input_shape: tuple[int, ...]
    classes: int
    vocabulary: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise UsageError(f"DataSpec: kind must be one of {', '.join(get_args(Kind))}, got {self.kind!r}.")
        if len(self.input_shape) != DIMENSIONS[self.kind] or any(size < 1 for size in self.input_shape):
            raise UsageError(
                f"DataSpec: the shape of one sample of kind '{self.kind}' is {SHAPE_WORDS[self.kind]}, "
                f"got {tuple(self.input_shape)}."
            )
        whole(self.classes, "DataSpec: classes", least=2)
        if self.kind in ("tokens", "language"):
            if self.vocabulary is None:
                raise UsageError("DataSpec: token data needs the size of its vocabulary; pass vocabulary=...")
            whole(self.vocabulary, "DataSpec: vocabulary")
        if self.kind == "language" and self.classes != self.vocabulary:
            raise UsageError(
                f"DataSpec: in language every token is a class, got {self.classes} classes and a vocabulary of {self.vocabulary}."
            )


@dataclass(frozen=True, repr=False)
class Architecture(ABC):
    """A net as a recipe names it; what the data decides (channels, classes) is filled in by `build`.

    Every architecture is a frozen dataclass of literals. Its repr is the recipe expression, without the arguments that have
    their default: `MLP(width=32)`. A new one says in `takes` what data it is for, and makes its module in `make`.

    Attributes:
        takes: The kinds of data it can be built for.
    """

    takes: ClassVar[tuple[Kind, ...]] = ("image",)

    @final
    def build(self, spec: DataSpec) -> nn.Module:
        """A freshly initialised net for this data, in train mode. Its weights depend on torch's global random state only.

        Raises:
            UsageError: The net is not made for this kind or shape of data.
        """
        if spec.kind not in self.takes:
            name = type(self).__name__
            raise UsageError(
                f"{name} takes {' or '.join(self.takes)} data, but this data is of kind '{spec.kind}'; use {_advice(spec.kind)}."
            )
        return self.make(spec)

    @abstractmethod
    def make(self, spec: DataSpec) -> nn.Module:
        """The module; called by `build` after it has checked the kind of the data."""

    def __repr__(self) -> str:
        parts = [f"{part.name}={getattr(self, part.name)!r}" for part in fields(self) if getattr(self, part.name) != part.default]
        return f"{type(self).__name__}({', '.join(parts)})"


def _advice(kind: Kind) -> str:
    return {"image": "ResNet20() or MLP()", "vector": "MLP()", "tokens": "Transformer()", "language": "GPT()"}[kind]
