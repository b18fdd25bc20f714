"""SemCKD's attention, and its gaps by hand."""

import pytest
import torch
from feature_makers import FS, FT, pair
from torch import nn
from torch.testing import assert_close

from limbeck.core.errors import ShapeError
from limbeck.losses.features.semckd import SemCKD
from support.makers import feature_views, featured, normal, scene


def test_golden_numbers() -> None:
    # One stage each and the projector the identity: the attention is 1, and the first row's mean square (.25 + .25 + .01) / 3
    both = pair(FS, FT, "layer1")
    term = SemCKD()
    term.build(scene(both))
    term.projectors = nn.ModuleList([nn.ModuleList([nn.Identity()])])
    found = term(both)
    assert float(found[0].detach()) == pytest.approx(0.17)
    assert_close(found, (FS - FT).square().mean(1))


def test_equal_keys_share_alike_and_stages_may_differ_in_number() -> None:
    both = featured({"layer1": FS}, {"layer1": FT, "layer2": 0 * FT, "layer3": FT + 1})
    term = SemCKD()
    term.build(scene(both))
    term.keys = nn.ModuleList([term.keys[0]] * 3)
    term.projectors = nn.ModuleList([nn.ModuleList([nn.Identity()] * 3)])
    assert_close(term.shares([FS], [FT, FT, FT]), torch.full((3, 1, 3), 1 / 3, dtype=torch.float64))
    shares = term.shares([FS], [FT, 0 * FT, FT + 1])
    assert_close(shares.sum(2), torch.ones(3, 1, dtype=torch.float64))
    gaps = torch.stack([(FS - other).square().mean(1) for other in (FT, 0 * FT, FT + 1)], 1)
    assert_close(term(both), (shares[:, 0] * gaps).sum(1))


def test_a_samples_attention_depends_on_it_alone() -> None:
    both = feature_views("maps")
    term = SemCKD()
    term.build(scene(both))
    students, teachers = term.sides(both)
    some = term.shares([part[2:4] for part in students], [part[2:4] for part in teachers])
    assert_close(some, term.shares(students, teachers)[2:4])


def test_different_kinds_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"SemCKD: features \[4, 3\] and \[4, 3, 2, 2\] differ in kind"):
        SemCKD().build(scene(pair(normal(4, 3), normal(4, 3, 2, 2), "layer1")))
