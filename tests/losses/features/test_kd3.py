"""KD3 against the sheet's numbers."""

from dataclasses import replace

import pytest
import torch
from feature_makers import MAPS_S, MAPS_T, pair
from torch import nn
from torch.testing import assert_close

from limbeck.losses.features.kd3 import KD3, disagreement
from support.makers import STUDENT, TEACHER, feature_views, scene


def test_golden_weights() -> None:
    found = disagreement(STUDENT, TEACHER)
    assert found.tolist() == pytest.approx([0.794583, 0.775732, 0.814552], abs=5e-7)
    assert found.logit().tolist() == pytest.approx([1.352774, 1.240966, 1.479864], abs=5e-7)  # the distances


def test_golden_number_of_the_features() -> None:
    """The classifier is replaced by one that answers with the sheet's logits."""

    class Answers(nn.Module):
        def forward(self, features: torch.Tensor) -> torch.Tensor:
            return STUDENT[:2]

    both = pair(MAPS_S, MAPS_T, "layer3")
    assert both.teacher is not None
    both = replace(both, teacher=replace(both.teacher, logits=TEACHER[:2]))
    term = KD3("layer3")
    term.alignment.projector, term.alignment.classifier = nn.Identity(), Answers()  # type: ignore[assignment]
    term.alignment.projector.register_parameter("dtype", nn.Parameter(torch.zeros(1, dtype=torch.float64)))
    assert float(term(both).mean().detach()) == pytest.approx(0.589407, abs=5e-7)


def test_it_is_simkd_with_a_weight_that_carries_no_gradient() -> None:
    both = feature_views("vectors")
    ours = KD3()
    ours.build(scene(both))
    projected, _ = ours.alignment.aligned(both)
    assert both.teacher is not None
    weight = disagreement(ours.alignment.classifier(projected), both.teacher.logits).detach()
    assert ((weight >= 0.5) & (weight < 1)).all()
    value, base = ours(both), ours.alignment(both)
    assert_close(value, weight * base)
    trained = ours.trained()
    for one, other in zip(
        torch.autograd.grad(value.sum(), trained), torch.autograd.grad((weight * base).sum(), trained), strict=True
    ):
        assert_close(one, other)


def test_equal_logits_weigh_one_half() -> None:
    assert_close(disagreement(STUDENT, STUDENT), torch.full((3,), 0.5, dtype=torch.float64), rtol=0, atol=1e-6)
