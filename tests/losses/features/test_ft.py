"""FT by hand, and its paraphraser."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from feature_makers import pair
from torch import nn
from torch.testing import assert_close

from limbeck.core.batch import Batch
from limbeck.core.errors import UsageError
from limbeck.core.outputs import Outputs
from limbeck.losses.features.ft import FT
from support.makers import feature_views, scene


def test_golden_number() -> None:
    # (3, 4) -> (.6, .8) and (0, 5) -> (0, 1): (.6 + .2) / 2
    term = FT()
    term.translator, term.paraphraser = nn.Identity(), nn.Identity()
    both = pair(torch.tensor([[[[3.0, 4.0]]]]), torch.tensor([[[[0.0, 5.0]]]]), "layer3")
    assert_close(term(both), torch.tensor([0.4], dtype=torch.float64))


def test_the_paraphraser_is_trained_then_frozen_and_stays_as_it_is() -> None:
    both, passes = feature_views("maps"), []
    stage = scene(both)

    def taught() -> Iterator[tuple[Batch, Outputs]]:
        passes.append(1)
        return stage.taught()

    term = FT(epochs=4)
    with torch.no_grad():
        term.build(replace(stage, taught=taught))
    assert len(passes) == 4
    assert not any(part.requires_grad for part in term.paraphraser.parameters())
    kept = {name: part.clone() for name, part in term.paraphraser.state_dict().items()}
    assert kept["1.num_batches_tracked"] == 4
    term.train()(both)
    assert all(torch.equal(part, kept[name]) for name, part in term.paraphraser.state_dict().items())
    assert term.paraphraser(both.teacher.features["layer3"]).shape[1] == 3  # type: ignore[union-attr]  half of 6 channels


def test_arguments_are_checked() -> None:
    for wrong in ({"ratio": 0}, {"ratio": 1.5}, {"epochs": 0}):
        with pytest.raises(UsageError, match=r"FT: (ratio|epochs) must"):
            FT(**wrong)  # type: ignore[arg-type]
