"""A small transformer that classifies token sequences, and the blocks that it shares with the causal one."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limbeck.core.checks import fraction, whole
from limbeck.core.errors import ShapeError, UsageError
from limbeck.models.spec import Architecture, DataSpec, Kind


@final
@dataclass
class KeysValues:
    """The keys and values, [B, heads, S, width / heads] each, of the tokens that attention layers have read."""

    layers: dict[nn.Module, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def add(self, layer: nn.Module, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Take up a layer's new ones; gives all that it has had."""
        if layer in self.layers:
            before = self.layers[layer]
            key, value = torch.cat([before[0], key], 2), torch.cat([before[1], value], 2)
        self.layers[layer] = key, value
        return key, value

    def keep(self, rows: Tensor) -> None:
        """Forget all rows but these."""
        self.layers = {layer: (key[rows], value[rows]) for layer, (key, value) in self.layers.items()}


class Attention(nn.Module):
    """Multi-head self-attention, softmax(q k^T / sqrt(width / heads)) v, over the tokens that may be seen.

    Written out in matrix products: the fused kernels have no forward-mode derivative. A token that may see none attends to all
    alike, so that nothing becomes NaN.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, tokens: Tensor, seen: Tensor, cache: KeysValues | None = None) -> Tensor:
        """[B, L, width], bool [B, L, L], or [B, 1, L] and the like: which (last) each (middle) may see -> [B, L, width].

        With a cache that holds S tokens, `seen` is [B, L, S + L] and the cache takes up the new ones.
        """
        query, key, value = (
            part(tokens).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (self.query, self.key, self.value)
        )
        if cache is not None:
            key, value = cache.add(self, key, value)
        scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
        scores = scores.masked_fill(~seen.unsqueeze(1), torch.finfo(scores.dtype).min)
        mixed: Tensor = self.out((scores.softmax(-1) @ value).transpose(1, 2).flatten(2))
        return mixed


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)) with a GELU layer of four times the width."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.wide = nn.Linear(width, 4 * width)
        self.narrow = nn.Linear(4 * width, width)
        self.drop: nn.Module = nn.Dropout(dropout) if dropout else nn.Identity()

    def forward(self, tokens: Tensor, seen: Tensor, cache: KeysValues | None = None) -> Tensor:
        """[B, L, width], bool and cache as in `Attention` -> [B, L, width]."""
        tokens = tokens + self.drop(self.attention(self.norm1(tokens), seen, cache))
        inner: Tensor = self.drop(self.narrow(F.gelu(self.wide(self.norm2(tokens)))))
        return tokens + inner


class MaskedPool(nn.Module):
    """The mean over the tokens that count; 0 where none does."""

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """[B, L, width], bool [B, L] -> [B, width]."""
        kept = tokens.masked_fill(~mask.unsqueeze(-1), 0)
        return kept.sum(1) / mask.sum(1, keepdim=True).clamp(min=1)


def check_sizes(width: int, depth: int, heads: int, dropout: float, who: str) -> None:
    """See that blocks of these sizes can be made.

    Raises:
        UsageError: They cannot.
    """
    whole(width, f"{who}: width")
    whole(depth, f"{who}: depth")
    if width % whole(heads, f"{who}: heads"):
        raise UsageError(f"{who}: width must be a multiple of heads, got {width} and {heads}.")
    if fraction(dropout, f"{who}: dropout") == 1:
        raise UsageError(f"{who}: dropout must be below 1, since 1 drops everything.")


class Body(nn.Module):
    """Embedding with learned positions, pre-norm blocks `layer1` ... `layer{depth}`, norm: all but what is made of the tokens.

    Args:
        width: Size of a token's vector.
        depth: Number of blocks.
        heads: Attention heads.
        dropout: Of a block's two branches.
        length: Of the longest sequence.
        vocabulary: Different token ids.
        who: The net's name in messages.
    """

    def __init__(self, width: int, depth: int, heads: int, dropout: float, *, length: int, vocabulary: int, who: str) -> None:
        super().__init__()
        self.who = who
        self.embedding = nn.Embedding(vocabulary, width)
        self.position = nn.Embedding(length, width)
        self.names = [f"layer{number}" for number in range(1, depth + 1)]
        for name in self.names:
            self.add_module(name, Block(width, heads, dropout))
        self.norm = nn.LayerNorm(width)

    def check_length(self, shape: Sequence[int]) -> None:
        """See that the net was built for sequences of this shape.

        Raises:
            ShapeError: It was not.
        """
        if len(shape) != 2 or shape[1] > self.position.num_embeddings:
            raise ShapeError(
                f"{self.who}: expected token ids [B, L] with L up to {self.position.num_embeddings}, got {list(shape)}; "
                "cut the sequences or build the net for longer ones."
            )

    def encode(self, ids: Tensor, seen: Tensor, places: Tensor | None = None, cache: KeysValues | None = None) -> Tensor:
        """Token ids [B, L], bool and cache as in `Attention`, places int64 [B, L] or None for 0 to L - 1 -> [B, L, width]."""
        if places is None:
            # [1, L]: that all samples share the positions shows in their shape, even where there are as many samples as places.
            places = torch.arange(ids.shape[1], device=ids.device).unsqueeze(0)
        tokens = self.embedding(ids) + self.position(places)
        for name in self.names:
            tokens = self.get_submodule(name)(tokens, seen, cache)
        normed: Tensor = self.norm(tokens)
        return normed

    def small_start(self) -> None:
        """Draw embedding and positions small; called last, so that the other parts' first weights come first."""
        nn.init.normal_(self.embedding.weight, std=0.02)
        nn.init.normal_(self.position.weight, std=0.02)


@final
class TransformerClassifier(Body):
    """The body, then the mean of the tokens that count and a linear classifier."""

    def __init__(self, width: int, depth: int, heads: int, dropout: float, *, length: int, vocabulary: int, classes: int) -> None:
        super().__init__(width, depth, heads, dropout, length=length, vocabulary=vocabulary, who="Transformer")
        self.pool = MaskedPool()
        self.fc = nn.Linear(width, classes)
        self.small_start()

    def forward(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        """Token ids [B, L], bool mask [B, L] (true where a token counts) or None -> logits [B, classes].

        Raises:
            ShapeError: The sequence is longer than the net was built for, or the mask has another shape.
        """
        self.check_length(inputs.shape)
        if mask is None:
            mask = torch.ones_like(inputs, dtype=torch.bool)
        elif mask.shape != inputs.shape:
            raise ShapeError(
                f"Transformer: mask {list(mask.shape)} and inputs {list(inputs.shape)} differ; give one value per token."
            )
        mask = mask.bool()
        ids = inputs.masked_fill(~mask, 0)  # padding may be any number, also one outside the vocabulary
        logits: Tensor = self.fc(self.pool(self.encode(ids, mask.unsqueeze(1)), mask))
        return logits


@final
@dataclass(frozen=True, repr=False)
class Transformer(Architecture):
    """Pre-norm transformer encoder with learned positions and a linear classifier on the mean of the tokens that count.

    Padding belongs on the right. What stands in padded places does not change the answer, and neither does their number.

    Taps: `embedding`, `layer1` ... `layer{depth}` (and `layer1.attention`), `norm` (all [B, L, width]), `pool`, `fc`.

    Args:
        width: Size of a token's vector, a multiple of `heads`.
        depth: Number of blocks.
        heads: Attention heads.
        dropout: Probability in [0, 1) of dropping a value of a block's two branches.

    Shapes: token ids [B, L] with mask [B, L] or None -> logits [B, classes].

    Raises:
        UsageError: A value is out of its range.

    Reference: Vaswani et al., 2017, arXiv:1706.03762; pre-norm: Xiong et al., 2020, arXiv:2002.04745, fig. 1b.
    """

    takes: ClassVar[tuple[Kind, ...]] = ("tokens",)

    width: int = 64
    depth: int = 2
    heads: int = 4
    dropout: float = 0.0

    def __post_init__(self) -> None:
        check_sizes(self.width, self.depth, self.heads, self.dropout, "Transformer")

    def make(self, spec: DataSpec) -> nn.Module:
        """The module for this data."""
        assert spec.vocabulary is not None  # DataSpec has checked it
        return TransformerClassifier(
            self.width,
            self.depth,
            self.heads,
            self.dropout,
            length=spec.input_shape[0],
            vocabulary=spec.vocabulary,
            classes=spec.classes,
        )
