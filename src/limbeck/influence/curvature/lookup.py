"""The curvature of an embedding: a linear layer of one-hot inputs, so that its input factor is a diagonal."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from limbeck.influence.vectors import Vector


@dataclass(frozen=True)
class Lookup:
    """An embedding's table, [V, O] numbers, as a layer with V inputs of which each position has one.

    Its input factor is the share of positions that look each row up, on the diagonal; its eigenvectors are the rows
    themselves, and no matrix of V x V numbers is made.

    Args:
        layer: The embedding.
        weight: The name of its table.
    """

    layer: nn.Embedding
    weight: str
    bias: None = None

    def matrix(self, v: Vector) -> Tensor:
        """The table's part of a vector as [1, O, V]."""
        return v[self.weight].T.unsqueeze(0)

    def parts(self, matrix: Tensor, like: Vector) -> Vector:
        """The inverse of `matrix`: the table by name."""
        return {self.weight: matrix[0].T.reshape(like[self.weight].shape)}

    def pair(self, ids: Tensor, gradient: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """The ids looked up and the gradients of what came out, [B, 1, T, 1] and [B, 1, T, O].

        What all samples look up at once (positions) comes as a single row: the sum over the samples, whose square is in the mean
        over drawn labels the sum of their squares.
        """
        samples = count if len(ids) % count == 0 else 1
        flat = ids.reshape(samples, 1, -1, 1)
        slopes = gradient.reshape(samples, 1, -1, self.layer.embedding_dim)
        if self.layer.padding_idx is not None:
            slopes = slopes.masked_fill(flat == self.layer.padding_idx, 0)
        return flat, slopes

    def shares(self, ids: Tensor) -> Tensor:
        """How often each row is looked up, [1, V]."""
        return torch.bincount(ids.flatten(), minlength=self.layer.num_embeddings).unsqueeze(0)


def row_moments(calls: list[tuple[Tensor, Tensor]], outputs: Tensor | None, rows: int) -> Tensor:
    """The sum over samples of the squared gradient of every row along `outputs`, [1, O, V].

    A row that a sample looks up several times adds up first.

    Args:
        calls: Ids [B, 1, T, 1] and gradients [B, 1, T, O].
        outputs: Eigenvectors in columns, [1, O, O]; None for the unit matrix.
        rows: V.
    """
    total = calls[0][1].new_zeros(rows, calls[0][1].shape[-1])
    for samples in {len(ids) for ids, _ in calls}:
        same = [(ids.flatten(1), d.flatten(0, 2)) for ids, d in calls if len(ids) == samples]
        places = [(torch.arange(samples, device=ids.device).unsqueeze(1) * rows + ids).flatten() for ids, _ in same]
        keys, where = torch.unique(torch.cat(places), return_inverse=True)
        own = total.new_zeros(len(keys), total.shape[1]).index_add(0, where, torch.cat([d for _, d in same]))
        turned = own if outputs is None else own @ outputs[0]
        total.index_add_(0, keys % rows, turned.square())  # in place: a table may be large
    return total.T.unsqueeze(0)
