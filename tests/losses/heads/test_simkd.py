"""SimKD: the projector learns the teacher's features, and what is kept ends in the teacher's classifier."""

from dataclasses import replace

import pytest
import torch
from test_onhead import CLASSES, images, loader, small
from torch import nn
from torch.testing import assert_close

from limbeck.core.errors import ShapeError, UsageError
from limbeck.data.loader import Loader
from limbeck.data.source import InMemory
from limbeck.distiller import Distiller
from limbeck.losses.heads.simkd import SimKD
from limbeck.models.resnet import ResNet8, ResNet8x4
from limbeck.models.spec import Architecture, DataSpec
from limbeck.models.wrn import WRN
from limbeck.students.projector import Projector
from limbeck.teachers.single import Single
from limbeck.training.fit import fit
from support.makers import feature_views, normal, scene

SPEC = DataSpec("image", (3, 8, 8), CLASSES)


def net(architecture: Architecture, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return architecture.build(SPEC)


def batches() -> Loader:
    source = InMemory(images(6), torch.arange(6) % CLASSES, classes=("a", "b", "c"), truth=None, name="x")
    return Loader(source, torch.arange(6), batch_size=6, seed=0, labels=source.labels)


def test_golden_number_of_the_loss() -> None:
    """classics.md: MSE(FS, FT) = 0.747153, with a projector that is the identity."""
    numbers = torch.arange(16)
    own = (((7 * numbers) % 11 - 5) / 5).view(2, 2, 2, 2).double()
    other = (((5 * numbers) % 13 - 6) / 6).view(2, 2, 2, 2).double()
    both = feature_views("maps", rows=2)
    both = replace(both, student=replace(both.student, features={"a": own}), teacher=replace(both.teacher, features={"a": other}))
    term = SimKD("a")
    term.projector = Projector(own, 2, 1).double()
    term.projector.layers = nn.Sequential(nn.Conv2d(2, 2, 1, bias=False).double())
    nn.init.dirac_(term.projector.layers[0].weight)
    value = term(both)
    assert_close(value, (own - other).square().flatten(1).mean(1))
    assert value.mean().item() == pytest.approx(0.747153, abs=5e-7)


@pytest.mark.parametrize("tap", ["penultimate", "layer3"])
def test_what_is_kept_is_backbone_projector_and_the_teachers_classifier(tap: str) -> None:
    student, teacher = net(ResNet8(), 0), net(ResNet8x4(), 1)
    made = Distiller(student, Single(teacher), SimKD(tap)).build(batches())
    (term,) = made.objective.terms
    fit(made, batches(), torch.optim.SGD(made.trained(), lr=0.01), steps=2)
    kept = made.deployed().model.eval()
    assert torch.equal(term.classifier.weight, teacher.fc.weight)
    inputs = images(5)
    student.eval()
    stages = student.layer3(student.layer2(student.layer1(student.stem(inputs))))
    features = stages.mean((2, 3)) if tap == "penultimate" else stages
    projected = term.eval().projector(features)
    assert_close(kept(inputs), teacher.fc(projected if tap == "penultimate" else projected.mean((2, 3))))
    extra = sum(part.numel() for part in [*term.projector.parameters(), *teacher.fc.parameters()])
    assert sum(p.numel() for p in kept.parameters()) == sum(p.numel() for p in net(ResNet8(), 0).parameters()) + extra - 65 * 3


def test_the_classifier_is_frozen_and_the_projector_is_trained() -> None:
    made = Distiller(net(ResNet8(), 0), Single(net(ResNet8x4(), 1)), SimKD("layer3")).build(batches())
    (term,) = made.objective.terms
    own = {id(part) for part in made.trained()}
    assert all(id(part) in own for part in term.projector.parameters())
    assert not any(id(part) in own for part in term.classifier.parameters())
    made(next(batches().epoch(0))).total.backward()
    assert all(part.grad is not None for part in term.projector.parameters())
    assert made.student.model.fc.weight.grad is None


def test_features_that_are_reproduced_give_the_teachers_logits() -> None:
    """A student that is the teacher, with a projector that changes nothing: what is kept is the teacher."""
    teacher = net(ResNet8(), 1)
    made = Distiller(net(ResNet8(), 1), Single(teacher), SimKD("layer3")).build(batches())
    (term,) = made.objective.terms
    term.projector.layers = nn.Sequential(nn.Conv2d(64, 64, 1, bias=False))
    nn.init.dirac_(term.projector.layers[0].weight)
    made.student.eval()
    assert_close(made(next(batches().epoch(0))).values, torch.zeros(1, 6))
    assert_close(made.deployed().model.eval()(images()), teacher.eval()(images()))


def test_the_larger_map_is_averaged_down() -> None:
    big, little = normal(2, 3, 8, 8), normal(2, 3, 2, 2)
    assert Projector(big, 5, 2, (4, 4)).double()(big).shape == (2, 5, 4, 4)
    assert Projector(little, 5, 2, (4, 4)).double()(little).shape == (2, 5, 2, 2)
    term, both = SimKD("layer1"), feature_views("maps")
    both.student.features["layer1"] = normal(9, 2, 2, 2)  # type: ignore[index]
    term.projector = Projector(both.student.features["layer1"], 2, 1, (4, 4)).double()
    assert term(both).shape == (9,)


def test_nets_that_do_more_than_average_are_refused() -> None:
    """A wide ResNet normalises after its last layer: a student's at the end of training, a teacher's at the start."""
    with pytest.raises(UsageError, match="the teacher does more between 'layer3' and its classifier than average"):
        Distiller(net(ResNet8(), 0), Single(net(WRN(10, 1), 1)), SimKD("layer3")).build(batches())
    student = net(WRN(10, 1), 0)
    nn.init.ones_(student.last[0].bias)  # as it is made, that normalisation changes nothing
    made = Distiller(student, Single(net(ResNet8(), 1)), SimKD("layer3")).build(batches())
    with pytest.raises(UsageError, match="the student does more between 'layer3' and its classifier than average"):
        made.check(next(batches().epoch(0)))
    Distiller(net(WRN(10, 1), 0), Single(net(WRN(10, 1), 1)), SimKD()).build(batches()).deployed()


def test_what_is_refused() -> None:
    both = feature_views("maps")
    with pytest.raises(ShapeError, match="but the teacher has none"):
        SimKD().build(replace(scene(both), classifier=None))
    with pytest.raises(ShapeError, match="but the teacher has one for 3 features"):
        SimKD().build(replace(scene(both), classifier=nn.Linear(3, CLASSES)))
    with pytest.raises(ShapeError, match="vectors"):
        SimKD("layer1", "penultimate").build(replace(scene(both), classifier=nn.Linear(7, CLASSES)))
    with pytest.raises(UsageError, match="compare with a teacher"):
        Distiller(small(), None, SimKD()).build(loader())
