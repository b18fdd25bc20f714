"""FitNet against the sheet's number, and its adapters."""

from dataclasses import replace

import pytest
import torch
from feature_makers import FS, FT, MAPS_S, MAPS_T, pair
from torch import nn

from limbeck.core.errors import ShapeError
from limbeck.losses.features.fitnet import FitNet
from support.makers import feature_views, normal, scene


def test_golden_number() -> None:
    term = FitNet()
    term.adapter = nn.Identity()
    assert float(term(pair(MAPS_S, MAPS_T, "layer2")).mean()) == pytest.approx(0.747153, abs=5e-7)
    assert term(pair(MAPS_T, MAPS_T, "layer2")).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("student, teacher", [((8, 8), (4, 4)), ((4, 4), (8, 8)), ((5, 4), (3, 4)), ((4, 4), (4, 4))])
def test_the_adapter_leads_from_size_to_size(student: tuple[int, int], teacher: tuple[int, int]) -> None:
    both = pair(normal(4, 3, *student), normal(4, 5, *teacher), "layer2")
    term = FitNet()
    term.build(scene(both))
    assert term.adapter(both.student.features["layer2"]).shape == (4, 5, *teacher)
    assert term.coupled


def test_between_vectors_it_is_linear_and_couples_nothing() -> None:
    term = FitNet()
    term.build(scene(pair(FS, FT, "layer2")))
    assert isinstance(term.adapter, nn.Linear)
    assert not term.coupled


def test_errors_are_one_sentence() -> None:
    with pytest.raises(ShapeError, match="FitNet: no adapter takes a student map of 2 x 2 to the teacher's 5 x 5; tap a stage"):
        FitNet().build(scene(pair(normal(4, 3, 2, 2), normal(4, 3, 5, 5), "layer2")))
    with pytest.raises(ShapeError, match=r"FitNet: student features \[4, 3, 2, 2\] cannot be brought to the teacher's \[4, 3\]"):
        FitNet().build(scene(pair(normal(4, 3, 2, 2), normal(4, 3), "layer2")))
    with pytest.raises(ShapeError, match=r"tap 'layer.' gives 3; name one module"):
        FitNet(student="layer?", teacher="layer?").build(scene(feature_views("maps")))


def test_masked_tokens_do_not_count() -> None:
    both = feature_views("tokens")
    mask = torch.ones(9, 3, dtype=torch.bool)
    mask[:, 2] = False
    masked = replace(both, batch=replace(both.batch, mask=mask))
    term = FitNet()
    term.build(scene(both))
    kept = pair(both.student.features["layer2"][:, :2], both.teacher.features["layer2"][:, :2], "layer2")  # type: ignore[union-attr]
    assert torch.allclose(term(masked), term(kept))
