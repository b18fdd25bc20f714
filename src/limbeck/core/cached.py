"""What a causal model offers that can go on from what it has read, without reading it again."""

from typing import Protocol, runtime_checkable

from torch import Tensor


class Cache(Protocol):
    """Keys and values of the tokens that some rows have read; the model that made it adds to it."""

    def keep(self, rows: Tensor) -> None:
        """Forget all rows but these.

        Args:
            rows: int64, their places among the present ones.
        """


@runtime_checkable
class Cached(Protocol):
    """A causal model with a cache. Rows of different lengths are padded on the left, so that all go on at the same place."""

    def fresh_cache(self) -> Cache | None:
        """A cache that has seen nothing; None where this model offers none after all."""

    def go_on(self, ids: Tensor, seen: Tensor, cache: Cache) -> Tensor:
        """Read further tokens.

        Args:
            ids: [B, N] int64, the tokens behind those that the cache has seen.
            seen: [B, S + N] bool, false where a row is padded, of all S tokens before and the N new ones.
            cache: Of this model; takes up the new tokens.

        Returns:
            [B, V], the logits of the token behind the last one.
        """
