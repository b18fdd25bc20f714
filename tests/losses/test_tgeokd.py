"""TGeo-KD against the sheet's numbers and limits; how its controller learns stands in tests/training/test_bilevel.py."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from limbeck.core.errors import ShapeError, UsageError
from limbeck.core.outputs import Outputs, Views
from limbeck.losses.labels.ce import CE
from limbeck.losses.logits.kd import KD
from limbeck.losses.logits.tgeokd import TGeoKD
from support.makers import golden_views, random_views, scene, token_views, views


def built(both: Views, T: float = 4.0) -> TGeoKD:
    torch.manual_seed(0)
    term = TGeoKD(T=T)
    term.build(scene(both))
    return term.double()


def stirred(term: TGeoKD) -> TGeoKD:
    """With a controller that says something else for every sample."""
    nn.init.normal_(term.controller[-1].weight, generator=torch.Generator().manual_seed(1))
    return term


def test_golden_numbers() -> None:
    both = golden_views()
    alpha = torch.tensor([0.3, 0.7, 0.5], dtype=torch.float64)
    found = built(both, T=1.5).mixed(both, alpha)
    assert_close(found, torch.tensor([0.571585, 0.299562, 0.457607], dtype=torch.float64), rtol=0, atol=5.1e-7)
    assert float(found.mean()) == pytest.approx(0.442918, abs=5.1e-7)


def test_golden_edges() -> None:
    """Sums of squares of S - G, T - G and T - S, in the features' order: probabilities 4 C, then M-S, G-S, T-S, T-G, M-G."""
    both = golden_views()
    features = built(both).features(both)
    assert features.shape == (3, 36)
    blocks = features.reshape(3, 9, 4).sum(2)
    wanted = torch.tensor(
        [[0.396396, 0.222204, 0.032378], [0.437656, 0.667344, 0.042354], [0.382978, 0.253271, 0.046500]], dtype=torch.float64
    )
    assert_close(blocks[:, [5, 7, 6]], wanted, rtol=0, atol=5.1e-7)
    assert_close(blocks[:, :4], torch.ones(3, 4, dtype=torch.float64))


def test_means_are_those_of_the_classes_and_uniform_where_there_are_none() -> None:
    both = golden_views()  # labels 0, 1, 3: one sample each, none of class 2
    assert both.teacher is not None
    p = both.teacher.logits.softmax(1)
    uniform = torch.full((4,), 0.25, dtype=torch.float64)
    assert_close(built(both).means, torch.stack([p[0], p[1], uniform, p[2]]), rtol=0, atol=1e-7)
    many = random_views(rows=40)
    assert many.teacher is not None
    assert many.batch.targets is not None
    for label, mean in enumerate(built(many).means):
        assert_close(mean, many.teacher.logits.softmax(1)[many.batch.targets == label].mean(0), rtol=0, atol=1e-6)


def test_fixed_ratios_are_the_usual_losses() -> None:
    both = random_views()
    term = built(both)
    kd, ce = KD(T=4)(both), CE()(both)
    for alpha in (0.0, 1.0, 0.3):
        assert_close(term.mixed(both, torch.full((6,), alpha, dtype=torch.float64)), alpha * kd + (1 - alpha) * ce)
    assert_close(term(both), (kd + ce) / 2)  # the untrained controller says 1/2


def test_ratios_lie_between_0_and_1_and_differ() -> None:
    both = random_views(rows=40)
    term = stirred(built(both))
    alpha = term.ratio(term.features(both))
    assert ((alpha > 0) & (alpha < 1)).all()
    assert float(alpha.std()) > 0.01
    assert_close(term(both), term.mixed(both, alpha))


def test_no_edges_where_all_three_agree() -> None:
    certain = 200 * torch.eye(4, dtype=torch.float64)
    both = views(certain, certain, torch.arange(4))
    features = built(both).features(both)
    assert_close(features[:, 16:], torch.zeros(4, 20, dtype=torch.float64))


def test_the_ratio_is_a_constant_for_the_student() -> None:
    both = random_views()
    term = stirred(built(both))

    def slope(value: Tensor, logits: Tensor) -> Tensor:
        (found,) = torch.autograd.grad(value.sum(), logits)
        return found

    student = both.student.logits.clone().requires_grad_()
    led = replace(both, student=Outputs(student))
    alpha = term.ratio(term.features(both))
    assert_close(slope(term(led), student), slope(alpha * KD(T=4)(led) + (1 - alpha) * CE()(led), student))
    assert not term.features(led).requires_grad


def test_its_controller_is_not_the_students_to_train() -> None:
    term = built(random_views())
    assert term.trained() == []
    assert set(term.state_dict()) > {"means", "controller.0.weight"}


def test_errors_are_one_sentence() -> None:
    both = random_views()
    term = built(both)
    with pytest.raises(ShapeError, match="one row per sample"):
        term(token_views())
    with pytest.raises(UsageError, match="needs labels"):
        term(views(both.student.logits, both.student.logits, None))
    with pytest.raises(UsageError, match="TGeoKD: T must be above 0"):
        TGeoKD(T=0)
