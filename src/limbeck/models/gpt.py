"""A small causal transformer: at every place of a sequence, the logits of the next token."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor, nn

from limbeck.models.spec import Architecture, DataSpec, Kind
from limbeck.models.transformer import Body, KeysValues, check_sizes


@final
class CausalTransformer(Body):
    """The body, every place of which sees itself and what stands left of it, and a linear head without a bias."""

    def __init__(self, width: int, depth: int, heads: int, dropout: float, *, length: int, vocabulary: int, tied: bool) -> None:
        super().__init__(width, depth, heads, dropout, length=length, vocabulary=vocabulary, who="GPT")
        self.head = nn.Linear(width, vocabulary, bias=False)
        self.small_start()
        if tied:
            self.head.weight = self.embedding.weight

    def forward(self, inputs: Tensor) -> Tensor:
        """Token ids [B, L] -> logits of the next token [B, L, V]; a place sees itself and what stands left of it.

        Raises:
            ShapeError: The sequence is longer than the net was built for.
        """
        self.check_length(inputs.shape)
        places = torch.arange(inputs.shape[1], device=inputs.device)
        logits: Tensor = self.head(self.encode(inputs, (places <= places.unsqueeze(1)).unsqueeze(0)))
        return logits

    def fresh_cache(self) -> KeysValues:
        """A cache that has seen nothing."""
        return KeysValues()

    def go_on(self, ids: Tensor, seen: Tensor, cache: KeysValues) -> Tensor:
        """Further tokens [B, N], `seen` bool [B, S + N], false at padding on the left -> logits behind the last one [B, V].

        Raises:
            ShapeError: A row is longer than the net was built for.
        """
        slots, new = torch.arange(seen.shape[1], device=ids.device), ids.shape[1]
        places = (seen.cumsum(1) - 1).clamp(min=0)
        self.check_length([len(ids), int(places.max()) + 1])
        visible = seen.unsqueeze(1) & (slots <= slots[-new:].unsqueeze(1))
        logits: Tensor = self.head(self.encode(ids, visible, places[:, -new:], cache)[:, -1])
        return logits


@final
@dataclass(frozen=True, repr=False)
class GPT(Architecture):
    """Pre-norm causal transformer with learned positions; its head may share the embedding's weight.

    Padding belongs on the right, where no counted place sees it; so no mask is needed.

    Taps: `embedding`, `layer1` ... `layer{depth}` (and `layer1.attention`), `norm` (all [B, L, width]), `head`.

    Args:
        width: Size of a token's vector, a multiple of `heads`.
        depth: Number of blocks.
        heads: Attention heads.
        dropout: Probability in [0, 1) of dropping a value of a block's two branches.
        tied: Whether the head's weight is the embedding's.

    Shapes: token ids [B, L] -> logits [B, L, V].

    Raises:
        UsageError: A value is out of its range.

    Reference: Radford et al., 2019, "Language models are unsupervised multitask learners", sec. 2.3; tied head: Press, Wolf,
    2017, arXiv:1608.05859. Differs: the two layers before each sum are not initialised smaller with depth.
    """

    takes: ClassVar[tuple[Kind, ...]] = ("language",)

    width: int = 128
    depth: int = 4
    heads: int = 4
    dropout: float = 0.0
    tied: bool = True

    def __post_init__(self) -> None:
        check_sizes(self.width, self.depth, self.heads, self.dropout, "GPT")

    def make(self, spec: DataSpec) -> nn.Module:
        """The module for this data."""
        return CausalTransformer(
            self.width,
            self.depth,
            self.heads,
            self.dropout,
            length=spec.input_shape[0],
            vocabulary=spec.classes,
            tied=self.tied,
        )
