"""SRRL by hand, and what its teacher must have."""

from dataclasses import replace

import pytest
import torch
from feature_makers import FS, FT, pair
from torch import nn
from torch.testing import assert_close

from limbeck.core.errors import ShapeError
from limbeck.core.outputs import Outputs
from limbeck.losses.features.srrl import SRRL
from support.makers import feature_views, normal, scene


def test_golden_numbers() -> None:
    # feature (1, 2) against (3, 2): mean (4 + 0) / 2 = 2; logits (1, 2) [1 0; 1 1] = (1, 3) against (0, 5): (1 + 4) / 2 = 2.5
    both = pair([[1.0, 2.0]], [[3.0, 2.0]])
    both = replace(both, teacher=Outputs(torch.tensor([[0.0, 5.0]], dtype=torch.float64), both.teacher.features))  # type: ignore[union-attr]
    term = SRRL()
    term.adapter, term.classifier = nn.Identity(), nn.Linear(2, 2, bias=False, dtype=torch.float64)
    term.classifier.weight = nn.Parameter(torch.tensor([[1.0, 0.0], [1.0, 1.0]], dtype=torch.float64))
    assert term(both).tolist() == [4.5]


def test_the_classifier_is_frozen_and_the_adapter_is_not() -> None:
    term = SRRL()
    term.build(scene(pair(FS, FT)))
    assert {id(part) for part in term.trained()} == {id(part) for part in term.adapter.parameters()}
    assert not any(part.requires_grad for part in term.classifier.parameters())


def test_maps_are_read_as_the_teacher_reads_them() -> None:
    """At the teacher's own map, taken for the student's, both parts vanish."""
    both = feature_views("maps")
    assert both.teacher is not None
    maps = both.teacher.features["layer3"]
    term = SRRL(student="layer3", teacher="layer3")
    stage = scene(both)
    term.build(stage)
    term.adapter = nn.Identity()
    same = pair(maps, maps, "layer3")
    answers = Outputs(term.classifier(maps.mean((2, 3))), same.teacher.features)  # type: ignore[union-attr]
    assert_close(term(replace(same, teacher=answers)), torch.zeros(9, dtype=torch.float64))


def test_a_teacher_whose_classifier_does_not_fit_is_refused() -> None:
    both = feature_views("maps")
    with pytest.raises(ShapeError, match=r"SRRL asks the teacher's linear classifier .* the teacher has one for 6 features"):
        SRRL(student="layer1", teacher="layer1").build(scene(both))
    with pytest.raises(ShapeError, match="the teacher has none; tap what goes into its classifier"):
        SRRL(student="layer2", teacher="layer2").build(scene(pair(normal(4, 3), normal(4, 3), "layer2")))
