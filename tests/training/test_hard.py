"""HARD: whose step moves what, the augmentor's images, and the toy case of shifts."""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.testing import assert_close

from limbeck.core.batch import Batch
from limbeck.core.errors import ShapeError, UsageError
from limbeck.data.loader import Loader
from limbeck.data.source import InMemory
from limbeck.distiller import Distiller
from limbeck.losses.labels.ce import CE
from limbeck.losses.logits.kd import KD
from limbeck.teachers.ensemble import Ensemble
from limbeck.teachers.single import Single
from limbeck.training.checkpoint import Keeper
from limbeck.training.fit import fit
from limbeck.training.steps.hard import HARD, divergences
from limbeck.training.steps.student import Student
from limbeck.training.training import Training, Update
from limbeck.transforms.augmentor import Augmentor, moved
from support.makers import STUDENT, TEACHER, generator, golden_views, normal

SIZE, WIDE = 16, 9


def student(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(SIZE * SIZE, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 3))


def strokes() -> Tensor:
    """Three smooth patterns of equal strength: a bar across, one down, and one aslant."""
    place = torch.arange(WIDE, dtype=torch.float32) - WIDE // 2
    down, right = place[:, None], place[None, :]
    aside = torch.stack([down + 0 * right, right + 0 * down, (down - right) / 2**0.5])
    bars = torch.exp(-(aside**2) / 4 - (down**2 + right**2) / 18)
    return (bars / bars.flatten(1).norm(dim=1).view(-1, 1, 1))[:, None]


class Invariant(nn.Module):
    """Finds the patterns wherever they are: convolution and global maximum."""

    def __init__(self) -> None:
        super().__init__()
        self.patterns = nn.Parameter(strokes() - strokes().mean((2, 3), keepdim=True))

    def forward(self, images: Tensor) -> Tensor:
        return 5 * F.conv2d(images, self.patterns, padding=WIDE // 2).amax((2, 3))


def pictures(count: int, reach: int, seed: int) -> tuple[Tensor, Tensor]:
    """The patterns about the middle of an image, up to `reach` pixels away each way, in noise."""
    rng = generator(seed)
    kinds, shifts = torch.arange(count) % 3, torch.randint(-reach, reach + 1, (count, 2), generator=rng)
    images, bars = 0.02 * torch.randn(count, 1, SIZE, SIZE, generator=rng), strokes()
    for image, kind, (down, right) in zip(images, kinds, shifts.tolist(), strict=True):
        image[:, 4 + down : 4 + WIDE + down, 4 + right : 4 + WIDE + right] += bars[kind]
    return images, kinds


def loader(count: int = 48) -> Loader:
    images, kinds = pictures(count, 0, seed=1)
    source = InMemory(images, kinds, classes=("a", "b", "c"), truth=None, name="x")
    return Loader(source, torch.arange(count), batch_size=24, seed=0, labels=source.labels)


def train(step: Update, *, epochs: int = 2, seed: int = 0, keeper: Keeper | None = None) -> Training:
    made = Distiller(student(seed), Single(Invariant()), KD(T=4))
    torch.manual_seed(3)
    optimizer = torch.optim.SGD(made.trained(), lr=0.05, momentum=0.9)
    return fit(made, loader(), optimizer, epochs=epochs, step=step, keeper=keeper)


def test_golden_numbers() -> None:
    """hard-augmentations.md: T = 1, the teacher on the augmented samples 0.8 t + (0, 0.1, 0.2, 0.3)."""
    after = 0.8 * TEACHER + torch.tensor([0, 0.1, 0.2, 0.3], dtype=torch.float64)
    apart, drift = divergences(STUDENT, after, TEACHER)
    assert_close(apart, torch.tensor([0.028975, 0.059645, 0.105401], dtype=torch.float64), rtol=0, atol=6e-7)
    assert_close(drift, torch.tensor([0.031984, 0.008693, 0.001316], dtype=torch.float64), rtol=0, atol=6e-7)
    assert float(HARD().loss(apart, drift).mean()) == pytest.approx(-0.050676, abs=1e-6)


def test_beyond_the_limit_only_the_drift_counts() -> None:
    loss = HARD(limit=0.02, seek=3, hold=2).loss(torch.tensor([1.0, 1.0]), torch.tensor([0.01, 0.03]))
    assert_close(loss, torch.tensor([0.02 - 3, 0.06]))


def test_the_augmentor_begins_as_the_identity() -> None:
    images = normal(5, 2, 6, 9)
    assert_close(Augmentor()(images, normal(5, 6)), images, rtol=0, atol=1e-12)
    apart, drift = divergences(STUDENT, TEACHER, TEACHER)
    assert_close(drift, torch.zeros(3, dtype=torch.float64), rtol=0, atol=1e-12)
    assert_close(apart, KD(T=1)(golden_views()))


def test_images_move_as_they_are_told_to() -> None:
    """A quarter of 8 pixels is 2; a right angle turns a column to a row."""
    images = torch.zeros(1, 1, 8, 8, dtype=torch.float64)
    images[0, 0, 2:4, 3] = 1

    def amounts(**values: float) -> Tensor:
        names = ("turn", "zoom", "down", "right", "gain", "bias")
        return torch.tensor([[values.get(name, 0.0) for name in names]], dtype=torch.float64)

    wanted = torch.roll(images, (2, 2), (2, 3))
    assert_close(moved(images, amounts(down=0.25, right=0.25)), wanted, rtol=0, atol=1e-12)
    assert_close(moved(images, amounts(gain=0.7, bias=0.1)), images * torch.tensor(0.7).exp() + 0.1, rtol=1e-6, atol=1e-7)
    quarter = moved(images, amounts(turn=torch.pi / 2))
    assert_close(quarter, images.rot90(1, (2, 3)), rtol=0, atol=1e-6)
    wide = torch.zeros(1, 1, 4, 8, dtype=torch.float64)
    wide[0, 0, :, 3] = 1  # turned by a right angle about the middle, a column becomes a row of the same length
    assert int((moved(wide, amounts(turn=torch.pi / 2))[0, 0] > 0.5).sum(1).max()) == 4


def test_the_gradient_through_the_sampler() -> None:
    images = normal(2, 1, 5, 5)
    amounts = (0.1 * normal(2, 6, seed=4)).requires_grad_()
    assert torch.autograd.gradcheck(lambda a: moved(images, a), amounts)


def test_parameters_stay_in_their_box_and_images_keep_their_shape() -> None:
    step = HARD(rate=0.5)
    train(step)
    assert all((part.abs() <= 1).all() and part.any() for part in step.augmentor.parameters())
    assert step.augmentor(normal(3, 1, 8, 8, dtype=torch.float32), torch.ones(3, 6)).shape == (3, 1, 8, 8)


def prepared(step: HARD) -> tuple[Training, Batch]:
    training = train(Student(), epochs=1)
    step.prepare(training, loader(), resumed=False)
    return training, next(loader().epoch(0))


def test_a_search_moves_the_augmentor_only() -> None:
    step = HARD()
    training, batch = prepared(step)
    before = deepcopy(training.distiller.state_dict())
    step._search(training, batch)
    assert all(torch.equal(part, before[name]) for name, part in training.distiller.state_dict().items())
    assert all(part.grad is None for part in training.distiller.parameters())
    assert all(part.any() for part in step.augmentor.parameters())


def test_the_students_step_does_not_move_the_augmentor() -> None:
    step = HARD(rate=1e-30)
    training, batch = prepared(step)
    step(training, batch)
    assert all(float(part.detach().abs().max()) < 1e-20 for part in step.augmentor.parameters())


def test_an_augmentor_at_the_identity_is_plain_distillation() -> None:
    ours, plain = train(HARD(rate=1e-30)), train(Student())
    for one, other in zip(ours.distiller.student.parameters(), plain.distiller.student.parameters(), strict=True):
        assert_close(one, other, rtol=0, atol=1e-4)


def test_a_small_step_lowers_the_augmentors_loss_on_its_batch() -> None:
    step = HARD(rate=1e-4)
    training, batch = prepared(step)
    nn.init.constant_(step.augmentor.centre, 0.3)  # away from whole pixels, where the sampler has a kink
    losses = []
    for _ in range(2):
        torch.manual_seed(7)
        apart, drift = step._search(training, batch)
        losses.append(drift - apart)
    assert losses[1] < losses[0]


def test_a_student_that_is_the_teacher_leaves_only_the_drift() -> None:
    step = HARD(T=1)
    training, batch = prepared(step)
    training.distiller.teacher = Single(deepcopy(training.distiller.student.model))
    nn.init.constant_(step.augmentor.centre, 0.3)
    apart, drift = step._search(training, batch)
    assert apart == pytest.approx(0, abs=1e-6)
    assert drift > 1e-5


def test_it_is_resumed_exactly(tmp_path: Path) -> None:
    found = []
    for keep in (None, tmp_path / "a.pt", tmp_path / "a.pt"):
        step = HARD(rate=0.05)
        training = train(step, epochs=4, keeper=None if keep is None else Keeper(keep, every=5, pause_s=0.0))
        found.append({**training.distiller.student.state_dict(), **step.augmentor.state_dict()})
    assert all(torch.equal(part, found[2][name]) for name, part in found[0].items())


@pytest.mark.slow
def test_it_carries_over_what_the_teacher_does_not_mind() -> None:
    """All training images stand in the middle; the teacher finds its patterns wherever they are, and so shall the student."""
    images, kinds = pictures(300, 3, seed=5)

    def accuracy(make: Callable[[], Update]) -> list[float]:
        nets = [train(make(), epochs=200, seed=seed).distiller.student.model.eval() for seed in range(3)]
        return [float((net(images).argmax(1) == kinds).double().mean()) for net in nets]

    assert (Invariant()(images).argmax(1) == kinds).all()
    hard, plain = accuracy(lambda: HARD(rate=0.01, T=1)), accuracy(Student)
    assert sum(hard) / 3 > sum(plain) / 3 + 0.1


def test_what_is_refused() -> None:
    with pytest.raises(UsageError, match="HARD: mix must lie in"):
        HARD(2)
    made = Distiller(student(), Ensemble([Single(Invariant())]), KD() + CE())
    with pytest.raises(UsageError, match="HARD: gradients go through the teacher"):
        fit(made, loader(), torch.optim.SGD(made.trained(), lr=0.1), epochs=1, step=HARD())
    with pytest.raises(ShapeError, match="HARD: images"):
        Augmentor()(torch.zeros(3, 5), torch.zeros(3, 6))
