"""Several nets as one: the mean of what they say, and what is refused."""

import math
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from limbeck.align.taps import Tapped
from limbeck.core.errors import UsageError
from limbeck.models.deepensemble import DeepEnsemble
from limbeck.models.mlp import MLP
from limbeck.models.spec import DataSpec
from limbeck.models.transformer import Transformer
from limbeck.teachers.ensemble import Ensemble
from limbeck.teachers.single import Single
from support.makers import normal, random_views


@pytest.mark.parametrize("combine", ["probability", "logit"])
def test_it_answers_as_the_ensemble_of_its_members(combine: str) -> None:
    batch = replace(random_views().batch, inputs=normal(6, 4))
    made = DeepEnsemble([MLP(width=5), MLP(width=3)], combine, weights=[3, 1])
    joined = made.build(DataSpec("vector", (4,), 5)).double()
    wanted = Ensemble([Single(net) for net in joined.nets], combine, weights=[3, 1])(batch).logits
    assert_close(Tapped(joined)(batch).logits, wanted)


class Says(torch.nn.Module):
    """Answers the same, whatever is asked."""

    def __init__(self, *logits: float) -> None:
        super().__init__()
        self.logits = torch.tensor([logits], dtype=torch.float64)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.logits


def test_golden_numbers() -> None:
    """Probabilities (1/2, 1/2) and (4/5, 1/5) have the mean (13/20, 7/20); logits (0, 0) and (log 4, 0) have (log 2, 0)."""
    nets = [Says(0, 0), Says(math.log(4), 0)]
    for combine, wanted in (("probability", [13 / 20, 7 / 20]), ("logit", [2 / 3, 1 / 3])):
        found = DeepEnsemble([MLP(), MLP()], combine).joined(nets)(torch.zeros(1, 4)).softmax(1)
        assert_close(found, torch.tensor([wanted], dtype=torch.float64))


def test_the_mask_goes_to_the_members_that_take_one() -> None:
    spec = DataSpec("tokens", (4,), 3, 7)
    made = DeepEnsemble([Transformer(width=8, heads=2), Transformer(width=8, heads=2)], "logit").build(spec).eval()
    ids, mask = torch.tensor([[1, 2, 3, 0]]), torch.tensor([[True, True, True, False]])
    with torch.no_grad():
        each = [net(ids, mask=mask) for net in made.nets]
        assert_close(made(ids, mask=mask), (each[0] + each[1]) / 2)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: DeepEnsemble([MLP()]), "at least two nets, got 1"),
        (lambda: DeepEnsemble([MLP(), MLP()], "median"), "combine must be one of probability, logit"),
        (lambda: DeepEnsemble([MLP(), MLP()], weights=[1]), "one per net, got 1 for 2"),
        (lambda: DeepEnsemble([MLP(), MLP()], weights=[1, 0]), "each weight must be above 0"),
        (lambda: DeepEnsemble([MLP(), Transformer()]).build(DataSpec("vector", (4,), 5)), "Transformer takes"),
    ],
)
def test_what_is_refused(make: object, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        make()  # type: ignore[operator]
