"""Two causal models that write together, each token drawn from the mixture of both (MiniLLM's teacher-mixed sampling)."""

from dataclasses import dataclass
from typing import cast, final

from torch import Tensor

from limbeck.core.cached import Cache, Cached
from limbeck.functional.divergences import log_mixture, log_softmax
from limbeck.llm.rollouts import Model


@final
@dataclass(frozen=True)
class Both:
    """What two models have read."""

    first: Cache
    second: Cache

    def keep(self, rows: Tensor) -> None:
        """Forget all rows but these."""
        self.first.keep(rows)
        self.second.keep(rows)


@final
@dataclass(frozen=True)
class Mixture:
    """Logits whose softmax is share p + (1 - share) q, p of the first and q of the second model, on the tokens that count.

    Args:
        first: A causal model.
        second: Another one on the same tokens.
        share: Of the first, strictly between 0 and 1.
        vocabulary: Only the first so many tokens count.
    """

    first: Model
    second: Model
    share: float
    vocabulary: int

    def __call__(self, ids: Tensor) -> Tensor:
        """The log-probabilities at every place, [B, L, vocabulary]."""
        return self._mixed(self.first(ids), self.second(ids))

    def fresh_cache(self) -> Cache | None:
        """One cache for each; None where one of the two has none."""
        models: tuple[object, object] = (self.first, self.second)
        caches = [model.fresh_cache() for model in models if isinstance(model, Cached)]
        found = [cache for cache in caches if cache is not None]
        return Both(*found) if len(found) == len(models) else None

    def go_on(self, ids: Tensor, seen: Tensor, cache: Cache) -> Tensor:
        """The log-probabilities behind the last token, [B, vocabulary]."""
        both, first, second = cast("Both", cache), cast("Cached", self.first), cast("Cached", self.second)
        return self._mixed(first.go_on(ids, seen, both.first), second.go_on(ids, seen, both.second))

    def _mixed(self, first: Tensor, second: Tensor) -> Tensor:
        log_p, log_q = (log_softmax(logits[..., : self.vocabulary]) for logits in (first, second))
        return log_mixture(log_p, log_q, self.share)
