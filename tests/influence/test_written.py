"""A compiled student has the curvature, the products and the scores of the same student as it was written."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from limbeck.align.taps import Tapped
from limbeck.core.batch import Batch
from limbeck.influence.curvature.kfac import KFAC
from limbeck.influence.scores import score
from limbeck.influence.task import Supervised
from support.makers import labels, normal


def forward_of(graph: torch.fx.GraphModule, _inputs: list[Tensor]) -> Callable[..., Tensor]:
    return graph.forward


@pytest.mark.parametrize("norm", [nn.GroupNorm(1, 4), nn.BatchNorm1d(4)], ids=["captured", "carried"])
def test_a_compiled_student_has_the_same_scores(norm: nn.Module) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 4), norm, nn.Tanh(), nn.Linear(4, 3)).double()
    model, batch = Tapped(net).eval(), Batch(normal(8, 5), labels(8, classes=3), torch.arange(8))
    wanted = score(model, Supervised(), [batch], [batch], KFAC(0.1)).phi
    net.compile(backend=forward_of)
    model(batch)  # compiled without hooks, as in the steps of a run before its curvature is estimated
    found = score(model, Supervised(), [batch], [batch], KFAC(0.1)).phi
    assert_close(found, wanted, rtol=1e-9, atol=1e-12)
