"""Terms on heads of their own: whom their loss reaches, and that the student that is kept is the student."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from limbeck.core.errors import ShapeError, UsageError
from limbeck.core.outputs import Outputs, Views
from limbeck.data.loader import Loader
from limbeck.data.source import InMemory
from limbeck.distiller import Distiller
from limbeck.losses.heads.onhead import OnHead
from limbeck.losses.heads.serial import Serial
from limbeck.losses.labels.ce import CE
from limbeck.losses.logits.binaryklnorm import BinaryKLNorm
from limbeck.losses.logits.kd import KD
from limbeck.losses.logits.ofa import OFA
from limbeck.models.resnet import ResNet8
from limbeck.models.spec import DataSpec
from limbeck.students.heads import Exit, Shift, make_head
from limbeck.teachers.single import Single
from limbeck.training.fit import fit
from support.makers import golden_views, normal, scene, views

CLASSES, ROWS = 3, 12


def small(width: int = 6, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, width), nn.Tanh(), nn.Linear(width, CLASSES)).double()


def loader() -> Loader:
    source = InMemory(normal(ROWS, 5, seed=3), torch.arange(ROWS) % CLASSES, classes=("a", "b", "c"), truth=None, name="x")
    return Loader(source, torch.arange(ROWS), batch_size=ROWS, seed=0, labels=source.labels)


def distiller(objective: object, student: nn.Module | None = None) -> Distiller:
    made = Distiller(small() if student is None else student, Single(small(seed=1)), objective)  # type: ignore[arg-type]
    return made.build(loader())


def reached(made: Distiller) -> dict[str, bool]:
    """Which parameters have a gradient other than 0."""
    made(next(loader().epoch(0))).total.backward()
    return {name: part.grad is not None and bool(part.grad.any()) for name, part in made.named_parameters()}


def test_each_loss_reaches_its_own_head_and_both_what_lies_below() -> None:
    aux = reached(distiller(OnHead(BinaryKLNorm())))
    assert aux == {
        "objective.terms.0.heads.0.weight": True,
        "objective.terms.0.heads.0.bias": True,
        "student.model.0.weight": True,
        "student.model.0.bias": True,
        "student.model.2.weight": False,
        "student.model.2.bias": False,
    } | {name: False for name in aux if name.startswith("teacher")}
    main = reached(distiller(CE() + OnHead(BinaryKLNorm()) * 0))
    assert not main["objective.terms.1.heads.0.weight"]
    assert main["student.model.2.weight"]


def test_the_value_is_the_terms_on_the_heads_logits() -> None:
    made = distiller(OnHead(KD(T=2)))
    batch = next(loader().epoch(0))
    student, teacher = made.student(batch), made.teach(batch)
    head = made.objective.terms[0].heads[0]
    hidden = made.student.model[1](made.student.model[0](batch.inputs))
    wanted = KD(T=2)(Views(Outputs(head(hidden)), teacher, batch))
    assert_close(made.objective.terms[0](Views(student, teacher, batch)), wanted)


@pytest.mark.filterwarnings("ignore:OnHead has the coefficient 0")
def test_training_with_a_head_that_has_no_say_is_training_without() -> None:
    """DHKD with alpha = 0 is plain cross-entropy, to the last bit."""
    found = []
    for objective in (CE() * 1.0, CE() + OnHead(BinaryKLNorm()) * 0):
        made = distiller(objective)
        fit(made, loader(), torch.optim.SGD(made.trained(), lr=0.1), steps=3)
        found.append(made.student.model.state_dict())
    assert all(torch.equal(part, found[1][name]) for name, part in found[0].items())


def test_the_student_that_is_kept_has_its_own_parameters_only() -> None:
    made = distiller(OnHead(KD(), head="mlp") + OnHead(KD(), "logits", "identity") + CE())
    kept = made.deployed().model
    assert kept is made.student.model
    assert sum(part.numel() for part in kept.parameters()) == sum(part.numel() for part in small().parameters())
    assert len(made.trained()) == len(list(small().parameters())) + 6 + 2


def test_the_identity_head_begins_as_no_head_at_all() -> None:
    """Same loss and the same gradient at the student's logits (aekt.md, invariant 10)."""
    both = golden_views()
    term = OnHead(KD(), "logits", "identity")
    term.build(scene(both))
    found = []
    for one in (term, KD()):
        logits = both.student.logits.clone().requires_grad_()
        value = one(replace(both, student=Outputs(logits)))
        found.append((value, torch.autograd.grad(value.sum(), logits)[0]))
    assert_close(found[0], found[1])


def test_weight_decay_pulls_the_identity_head_to_the_identity() -> None:
    layer = make_head("identity", torch.zeros(1, 3), 3)
    assert isinstance(layer, Shift)
    with torch.no_grad():
        layer.change.weight.copy_(torch.ones(3, 3))
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, weight_decay=1.0)
    for _ in range(200):
        optimizer.zero_grad()
        (layer(torch.zeros(1, 3)) * 0).sum().backward()
        optimizer.step()
    assert_close(layer(torch.eye(3)), torch.eye(3), rtol=0, atol=1e-6)


def test_the_gradient_through_the_layer_is_that_of_the_sheet() -> None:
    """dL/dz1 = (dL/dz2) W, row vectors."""
    layer = Shift(4).double()
    with torch.no_grad():
        layer.change.weight.copy_(normal(4, 4, seed=7))
    z = normal(2, 4, seed=8).requires_grad_()
    slope = normal(2, 4, seed=9)
    (found,) = torch.autograd.grad((layer(z) * slope).sum(), z)
    assert_close(found, slope @ (torch.eye(4, dtype=torch.float64) + layer.change.weight))


def test_serial_folds_into_the_classifier_and_has_the_same_size() -> None:
    made = distiller(KD() + Serial(CE()))
    shift = made.objective.terms[1].layer.heads[0]
    with torch.no_grad():
        shift.change.weight.copy_(normal(3, 3, seed=2))
        shift.change.bias.copy_(normal(3, seed=4))
    inputs = normal(7, 5, seed=5)
    before = [part.clone() for part in made.student.model.parameters()]
    kept = made.deployed().model
    assert_close(kept(inputs), shift(made.student.model(inputs)))
    assert sum(part.numel() for part in kept.parameters()) == sum(part.numel() for part in small().parameters())
    assert all(torch.equal(one, other) for one, other in zip(before, made.student.model.parameters(), strict=True))


def test_serial_puts_its_term_behind_the_layer_and_leaves_the_others_before_it() -> None:
    made = distiller(KD() + Serial(CE()))
    with torch.no_grad():
        made.objective.terms[1].layer.heads[0].change.bias.copy_(torch.tensor([5.0, 0, 0]))
    batch = next(loader().epoch(0))
    values = made(batch).values
    logits = made.student(batch).logits + torch.tensor([5.0, 0, 0])
    assert_close(values[1], nn.functional.cross_entropy(logits, batch.targets, reduction="none"))
    assert_close(values[0], KD()(Views(made.student(batch), made.teach(batch), batch)))


def test_serial_refuses_a_net_whose_last_linear_layer_gives_no_logits() -> None:
    odd = nn.Sequential(nn.Linear(5, 4), nn.Unflatten(1, (4, 1)), nn.Conv1d(4, CLASSES, 1), nn.Flatten()).double()
    with pytest.raises(UsageError, match="the last linear layer gives 4 features and no logits"):
        distiller(KD() + Serial(), odd).deployed()


def images(rows: int = 4) -> Tensor:
    return normal(rows, 3, 8, 8, dtype=torch.float32)


def test_exits_of_one_for_all_stand_on_every_stage() -> None:
    """Three stages of a convolutional net: 2, 1 and 0 halvings, all down to the last stage's 64 channels."""
    torch.manual_seed(0)
    nets = [ResNet8().build(DataSpec("image", (3, 8, 8), CLASSES)) for _ in range(2)]
    source = InMemory(images(), torch.arange(4) % CLASSES, classes=("a", "b", "c"), truth=None, name="x")
    batches = Loader(source, torch.arange(4), batch_size=4, seed=0, labels=source.labels)
    made = Distiller(nets[0], Single(nets[1]), OFA() + OnHead(OFA(), "layer?", "exit") + CE()).build(batches)
    heads = made.objective.terms[1].heads
    assert [head.classifier.in_features for head in heads] == [64, 64, 64]
    assert [sum(isinstance(part, nn.BatchNorm2d) for part in head.modules()) for head in heads] == [4, 2, 0]
    assert made.objective.coupled
    fit(made, batches, torch.optim.SGD(made.trained(), lr=0.01), steps=2)
    assert made.deployed().model is made.student.model


@pytest.mark.parametrize("halvings", [0, 1, 2])
def test_an_exit_halves_the_map_and_ends_at_the_last_width(halvings: int) -> None:
    head = Exit(4, CLASSES, halvings, 24)
    assert head.steps(torch.zeros(2, 4, 8, 8)).shape == (2, 24, 8 // 2**halvings, 8 // 2**halvings)
    assert head(torch.zeros(2, 4, 8, 8)).shape == (2, CLASSES)


def test_the_sum_over_heads() -> None:
    made = OnHead(KD(), "layer?")
    both = golden_views()
    features = {"layer1": normal(3, 2, 4, 4, seed=1), "layer2": normal(3, 5, seed=2)}
    both = replace(both, student=replace(both.student, features=features))
    made.build(scene(both))
    parts = [KD()(replace(both, student=Outputs(logits))) for logits in made.answers(both)]
    assert_close(made(both), parts[0] + parts[1])
    pooled = features["layer1"].mean((2, 3))
    assert_close(made.answers(both)[0], made.heads[0][-1](pooled))


def test_masked_tokens_do_not_count() -> None:
    mask = torch.tensor([[True, True, False], [True, False, False]])
    student, tokens = normal(2, 4), normal(2, 3, 6, seed=1)
    both = views(student, normal(2, 4, seed=2), None, mask)
    soiled = torch.where(mask.unsqueeze(-1), tokens, torch.tensor(float("nan"), dtype=torch.float64))
    both = replace(both, student=Outputs(student, {"penultimate": soiled}))
    term = OnHead(KD())
    term.build(scene(replace(both, batch=replace(both.batch, targets=torch.zeros(2, dtype=torch.long)))))
    wanted = torch.stack([tokens[0, :2].mean(0), tokens[1, 0]])
    assert_close(term.answers(both)[0], term.heads[0](wanted))


def test_what_is_refused() -> None:
    with pytest.raises(UsageError, match=r"OnHead: head must be one of linear, mlp, identity, exit, got 'conv'"):
        OnHead(KD(), head="conv")
    with pytest.raises(UsageError, match=r"OnHead: takes a term that reads logits only, got OnHead\(KD"):
        OnHead(OnHead())
    with pytest.raises(UsageError, match="its heads have not been made"):
        OnHead(KD(), "logits", "identity")(golden_views())
    term, both = OnHead(KD(), head="identity"), golden_views()
    both = replace(both, student=replace(both.student, features={"penultimate": normal(3, 7)}))
    with pytest.raises(ShapeError, match="OnHead: head 'identity' needs one feature per class"):
        term.build(scene(both))
