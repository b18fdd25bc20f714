"""Several nets that are trained one by one and answer together (Lakshminarayanan et al., 2017)."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, cast, final, get_args

from torch import Tensor, nn

from limbeck.core.checks import one_of, positive
from limbeck.core.errors import UsageError
from limbeck.functional.divergences import full_precision
from limbeck.functional.ensembles import Combine, mean_of
from limbeck.models.spec import Architecture, DataSpec, Kind


class Members(nn.Module):
    """The nets, and the weighted mean of what they answer, as logits.

    Args:
        nets: All for the same classes.
        weights: Above 0, of sum 1.
        combine: Which mean, see `functional.ensembles.mean_of`.
    """

    def __init__(self, nets: Sequence[nn.Module], weights: Sequence[float], combine: Combine) -> None:
        super().__init__()
        self.nets, self.weights, self.combine = nn.ModuleList(nets), tuple(weights), combine
        self.masks = ["mask" in inspect.signature(net.forward).parameters for net in nets]

    def forward(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        """[B, ...] -> logits [B, C] or [B, L, V]; the mask goes to the nets that take one."""
        answers = [net(inputs, mask=mask) if takes else net(inputs) for net, takes in zip(self.nets, self.masks, strict=True)]
        return mean_of([full_precision(answer) for answer in answers], self.weights, self.combine)


@final
@dataclass(frozen=True, repr=False)
class DeepEnsemble(Architecture):
    """Nets that a run trains one after the other as teachers, each from first weights of its own; their mean teaches.

    As logits: log sum_m w_m softmax(t_m) for `probability`, which a term then softens by its own T, or sum_m w_m t_m for
    `logit`. It has no inner activations that a term could read. `Ensemble` is the same for nets that are trained already.

    Args:
        members: At least two nets.
        combine: `probability` or `logit`.
        weights: One per net, > 0, divided by their sum; none for equal ones.

    Raises:
        UsageError: There are fewer than two nets, or weights or combine are not of these.

    Reference: Lakshminarayanan, Pritzel, Blundell, 2017, arXiv:1612.01474; as teacher: Hinton et al., 2015, arXiv:1503.02531,
    sec. 3. Differs from the papers: all members see the samples in the same order; no adversarial training.

    >>> from limbeck import MLP
    >>> DeepEnsemble([MLP(width=256), MLP(width=512)], "logit")
    DeepEnsemble(members=(MLP(width=256), MLP(width=512)), combine='logit')
    """

    takes: ClassVar[tuple[Kind, ...]] = get_args(Kind)

    members: Sequence[Architecture]
    combine: str = "probability"
    weights: Sequence[float] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "members", tuple(self.members))
        one_of(self.combine, get_args(Combine), "DeepEnsemble: combine")
        if len(self.members) < 2:
            raise UsageError(f"DeepEnsemble: needs at least two nets, got {len(self.members)}; name a single one by itself.")
        if self.weights is not None:
            object.__setattr__(self, "weights", tuple(positive(weight, "DeepEnsemble: each weight") for weight in self.weights))
            if len(self.weights) != len(self.members):
                raise UsageError(
                    f"DeepEnsemble: weights must be one per net, got {len(self.weights)} for {len(self.members)} nets."
                )

    def make(self, spec: DataSpec) -> nn.Module:
        """All members, freshly initialised."""
        return self.joined([member.build(spec) for member in self.members])

    def joined(self, nets: Sequence[nn.Module]) -> nn.Module:
        """The module of these nets, one for each member."""
        given = [1.0] * len(nets) if self.weights is None else list(self.weights)
        return Members(nets, [weight / sum(given) for weight in given], cast(Combine, self.combine))
