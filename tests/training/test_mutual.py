"""Nets that learn together: whose step is what, against updates written out by hand."""

from copy import deepcopy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close
from training_makers import Parts, copied, distance, net, parts, prepared, same, train

from limbeck.core.errors import UsageError
from limbeck.distiller import Distiller
from limbeck.losses.heads.onhead import OnHead
from limbeck.losses.labels.ce import CE
from limbeck.losses.logits.bdkd import BDKD
from limbeck.losses.logits.kd import KD
from limbeck.teachers.ensemble import Ensemble
from limbeck.teachers.single import Single
from limbeck.training.checkpoint import Keeper
from limbeck.training.steps.mutual import Mutual, like, told
from limbeck.training.steps.student import Student
from support.makers import LABELS, STUDENT, TEACHER, normal, views


def several(count: int = 2, kind: str = "mlp", **options: object) -> Parts:
    """A student with `count` - 1 peers."""
    made = parts(double=True, kind=kind, **options)  # type: ignore[arg-type]
    peers = [Single(net(kind, seed=10 + k).double(), trained=True) for k in range(count - 1)]
    teacher = peers[0] if count == 2 else Ensemble(peers)
    made.distiller = Distiller(made.distiller.student.model, teacher, CE() + KD(T=1))
    return made


def test_golden_numbers() -> None:
    """classics.md: two peers with the reference logits have 0.869447 and 0.808414; bd-kd.md: 1.088523 and 0.808414."""
    loss = Mutual().loss
    first, second = views(STUDENT, TEACHER, LABELS), views(TEACHER, STUDENT, LABELS)
    assert float(loss.per_sample(first).mean()) == pytest.approx(0.869447, abs=1e-6)
    assert float(loss.per_sample(second).mean()) == pytest.approx(0.808414, abs=1e-6)
    assert float((CE() + BDKD()).per_sample(first).mean()) == pytest.approx(1.088523, abs=1e-6)


def test_one_step_is_that_of_each_peer_written_out() -> None:
    """Three nets: CE and the mean of the divergences from both others, held fixed, all at the state before the step."""
    made = several(3, lr=0.2, momentum=0.0)
    step = Mutual()
    training, batch = prepared(made, step)
    nets = [made.distiller.student.model, *(deepcopy(peer.tapped.model) for peer in made.distiller.teacher.teachers)]
    nets[0] = deepcopy(nets[0])
    said = [model(batch.inputs) for model in nets]
    wanted = []
    for own, model in zip(said, nets, strict=True):
        losses = nn.functional.cross_entropy(own, batch.targets)
        for other in said:
            if other is not own:
                p = other.detach().softmax(1)
                losses = losses + (p * (p.log() - own.log_softmax(1))).sum(1).mean() / 2
        slopes = torch.autograd.grad(losses, list(model.parameters()))
        wanted.append([part - 0.2 * slope for part, slope in zip(model.parameters(), slopes, strict=True)])
    step(training, batch)
    after = [made.distiller.student.model, *(peer.tapped.model for peer in made.distiller.teacher.teachers)]
    for model, parts_ in zip(after, wanted, strict=True):
        assert_close(list(model.parameters()), parts_, rtol=1e-9, atol=1e-12)
    assert all(part.grad is None for part in made.distiller.parameters())


def test_the_students_step_is_the_usual_one() -> None:
    ours, usual = several(), several()
    for made, step in ((ours, Mutual()), (usual, Student())):
        training, batch = prepared(made, step)
        step(training, batch)
    assert same(ours.distiller.student.state_dict(), usual.distiller.student.state_dict())


@pytest.mark.parametrize("count", [2, 3])
def test_equal_nets_have_nothing_to_tell_each_other(count: int) -> None:
    """The divergences and their gradients are 0: each step is that of cross-entropy."""
    made = several(count, momentum=0.0)
    peers = made.distiller.teacher.teachers if count > 2 else [made.distiller.teacher]
    for peer in peers:
        peer.tapped.model.load_state_dict(made.distiller.student.model.state_dict())
    alone = parts(double=True, objective=CE(), momentum=0.0)
    train(alone, steps=3)
    train(made, Mutual(), steps=3)
    for model in (made.distiller.student.model, *(peer.tapped.model for peer in peers)):
        assert distance(model.state_dict(), alone.distiller.student.model.state_dict()) < 1e-12


def test_what_a_net_hears_of_several() -> None:
    one, two = normal(4, 3, seed=1), normal(4, 3, seed=2)
    assert told([one]) is one
    assert_close(told([one, two]).exp(), (one.softmax(1) + two.softmax(1)) / 2)
    own = normal(4, 3, seed=3).requires_grad_()

    def slope(loss: Tensor) -> Tensor:
        return torch.autograd.grad(loss.sum(), own)[0]

    def divergence(teacher: Tensor) -> Tensor:
        both = views(own, teacher, None)
        value: Tensor = KD(T=1)(both)
        return value

    assert_close(slope(divergence(told([one, two]))), slope(divergence(one) + divergence(two)) / 2)


def test_peers_tell_in_the_mode_in_which_they_learn() -> None:
    made = several(kind="batchnorm")
    norm = made.distiller.teacher.tapped.model[1]
    before = norm.running_mean.clone()
    train(made, Mutual(), steps=2)
    assert not torch.equal(norm.running_mean, before)
    assert not made.distiller.teacher.tapped.training
    assert int(norm.num_batches_tracked) == 2


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("count", [2, 3])
def test_a_peer_is_asked_once_and_where_the_batch_is_cut_twice(count: int, accumulate: int) -> None:
    made, step, modes = several(count), Mutual(), []
    training, batch = prepared(made, step, accumulate=accumulate)
    for peer in step.peers:
        peer.tapped.register_forward_pre_hook(lambda model, _: modes.append(model.training))
    step(training, batch)
    assert modes == [True] * (count - 1) * (1 if accumulate == 1 else 2 * accumulate)


def test_the_student_goes_forward_once() -> None:
    made, step, passes = several(), Mutual(), []
    training, batch = prepared(made, step)
    made.distiller.student.register_forward_pre_hook(lambda model, _: passes.append(model.training))
    step(training, batch)
    assert passes == [True]


@pytest.mark.parametrize("kind", ["batchnorm", "dropout"])
def test_what_a_cut_batch_hears_is_what_its_peer_learns_by(kind: str) -> None:
    """Of each part twice the same: dropout masks are drawn alike, and running statistics move once."""
    made, step, said = several(kind=kind), Mutual(), []
    training, batch = prepared(made, step, accumulate=2)
    made.distiller.teacher.tapped.register_forward_hook(lambda model, _, output: said.append(output.logits.detach()))
    step(training, batch)
    first, second, again, other = said
    assert_close(first, again, rtol=0, atol=0)
    assert_close(second, other, rtol=0, atol=0)
    for name, part in made.distiller.teacher.tapped.named_buffers():
        if name.endswith("num_batches_tracked"):
            assert int(part) == 2


def test_an_ensemble_is_heard_by_its_own_mean() -> None:
    made, step = several(3), Mutual()
    made.distiller.teacher = Ensemble(list(made.distiller.teacher.teachers), "logit", weights=[3, 1])
    training, batch = prepared(made, step)
    answers = step._answers(batch, keep=False)
    heard = step._heard(training, answers)
    assert heard is not None
    assert_close(heard.logits, 0.75 * answers[0].logits + 0.25 * answers[1].logits)


def test_accumulation_and_clipping_are_the_students() -> None:
    whole, cut = several(3), several(3)
    train(whole, Mutual(), steps=4, clip=0.1)
    train(cut, Mutual(), steps=4, clip=0.1, accumulate=3)
    assert distance(whole.distiller.state_dict(), cut.distiller.state_dict()) < 1e-12
    made = several(lr=1.0, momentum=0.0)
    before = copied(made.distiller.teacher.state_dict())
    train(made, Mutual(), steps=1, clip=0.01)
    moved = [part - before[name] for name, part in made.distiller.teacher.state_dict().items()]
    assert float(torch.cat([part.reshape(-1) for part in moved]).norm()) == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("count", [2, 3])
def test_it_is_resumed_exactly(count: int, tmp_path: Path) -> None:
    options = {"steps": 8, "rate": lambda number, total: 1 - number / total}
    whole = train(several(count, "dropout"), Mutual(), **options)
    train(several(count, "dropout"), Mutual(), keeper=Keeper(tmp_path / "a.pt", every=5, pause_s=0.0), **options)
    resumed = train(several(count, "dropout"), Mutual(), keeper=Keeper(tmp_path / "a.pt", every=5, pause_s=0.0), **options)
    assert len(resumed.records) == 3
    assert same(whole.teacher, resumed.teacher)
    assert same(whole.student, resumed.student)


@pytest.mark.parametrize(
    "optimizer",
    [
        torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.3, momentum=0.8, nesterov=True, weight_decay=0.01),
        torch.optim.AdamW(nn.Linear(1, 1).parameters(), lr=0.2, betas=(0.7, 0.8)),
        torch.optim.Adam(nn.Linear(1, 1).parameters(), lr=0.2, amsgrad=True),
    ],
    ids=lambda optimizer: type(optimizer).__name__,
)
def test_a_peers_optimiser_is_like_the_students(optimizer: torch.optim.Optimizer) -> None:
    made = like(optimizer, nn.Linear(2, 3))
    assert type(made) is type(optimizer)
    assert made.defaults == optimizer.defaults
    assert [tuple(part.shape) for part in made.param_groups[0]["params"]] == [(3, 2), (3,)]


def test_what_is_refused() -> None:
    with pytest.raises(UsageError, match="Mutual: all teachers learn too"):
        train(parts(), Mutual())
    frozen = several(3)
    frozen.distiller.teacher.teachers[1] = Single(net().double())
    with pytest.raises(UsageError, match="Mutual: all teachers learn too"):
        train(frozen, Mutual())
    with pytest.raises(UsageError, match="Mutual: peers learn by terms that read logits only"):
        Mutual(CE() + OnHead())
    assert repr(Mutual(CE() + KD(T=1) * 0.5)) == "Mutual(CE() + KD(T=1) * 0.5)"
