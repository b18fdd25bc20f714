"""Views, features and scenes of random numbers, all from seeds: what terms are tried on."""

from collections.abc import Iterator, Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from limbeck.align.taps import PENULTIMATE
from limbeck.core.batch import Batch
from limbeck.core.outputs import Outputs, Views
from limbeck.core.term import Scene
from limbeck.data.preferences import REPLY
from limbeck.losses.drawn import ADVANTAGE, DRAWN, REFERENCE
from limbeck.losses.logits.swing import PRIVACY


def generator(seed: int = 0) -> torch.Generator:
    """Random numbers of this seed."""
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Standard normal numbers."""
    return torch.randn(*shape, generator=generator(seed), dtype=dtype)


def labels(*shape: int, classes: int, seed: int = 0) -> Tensor:
    """Labels, 0 to classes - 1."""
    return torch.randint(classes, shape, generator=generator(seed))


def views(
    student: Tensor,
    teacher: Tensor | None,
    targets: Tensor | None,
    mask: Tensor | None = None,
    meta: Mapping[str, Tensor] | None = None,
    reference: Outputs | None = None,
) -> Views:
    """Views on samples whose inputs do not matter."""
    batch = Batch(torch.zeros(len(student), 1), targets, torch.arange(len(student)), mask, {} if meta is None else meta)
    return Views(Outputs(student), None if teacher is None else Outputs(teacher, reference=reference), batch)


def random_views(seed: int = 0, rows: int = 6, classes: int = 5) -> Views:
    """[B, C] logits of both sides and of the teacher's reference, with labels, and columns `privacy` and `reply`."""
    student, teacher = normal(rows, classes, seed=seed), normal(rows, classes, seed=seed + 1)
    meta = {PRIVACY: normal(rows, seed=seed).sigmoid(), REPLY: torch.arange(rows) % 2}
    reference = Outputs(normal(rows, classes, seed=seed + 2))
    return views(student, teacher, labels(rows, classes=classes, seed=seed), meta=meta, reference=reference)


def token_views(seed: int = 0, rows: int = 6, length: int = 4, classes: int = 5) -> Views:
    """[B, L, V] logits of all three, columns `privacy` and `reply` and those of rollouts; 1 to L tokens of a sample count."""
    student, teacher = normal(rows, length, classes, seed=seed), normal(rows, length, classes, seed=seed + 1)
    counted = torch.arange(rows) % length + 1
    mask = torch.arange(length) < counted.unsqueeze(1)
    meta = {PRIVACY: normal(rows, length, seed=seed).sigmoid(), ADVANTAGE: normal(rows, seed=seed)}
    meta |= {name: normal(rows, length, seed=seed + k).sigmoid().log() for k, name in enumerate((DRAWN, REFERENCE))}
    meta[REPLY] = torch.arange(rows) % 2
    reference = Outputs(normal(rows, length, classes, seed=seed + 2))
    return views(student, teacher, labels(rows, length, classes=classes, seed=seed), mask, meta, reference)


FeatureKind = Literal["maps", "vectors", "tokens"]


def featured(student: dict[str, Tensor], teacher: dict[str, Tensor], *, classes: int = 3, seed: int = 0) -> Views:
    """Views with these features, random logits and labels that name every class in turn."""
    rows = len(next(iter(student.values())))
    own, other = (Outputs(normal(rows, classes, seed=seed + k), part) for k, part in ((5, student), (6, teacher)))
    batch = Batch(torch.zeros(rows, 1, dtype=torch.float64), torch.arange(rows) % classes, torch.arange(rows))
    return Views(own, other, batch)


def feature_views(kind: FeatureKind, seed: int = 0, rows: int = 9) -> Views:
    """Stages `layer1` to `layer3` and `penultimate` on both sides, of other widths and, in places, map sizes; and a `depth`."""
    shapes: dict[FeatureKind, tuple[list[tuple[int, ...]], list[tuple[int, ...]]]] = {
        "maps": ([(2, 4, 4), (3, 2, 2), (4, 2, 2), (5,), (1, 3, 3)], [(2, 4, 4), (4, 4, 4), (6, 2, 2), (6,), (1, 3, 3)]),
        "vectors": ([(5,)] * 5, [(7,)] * 5),
        "tokens": ([(3, 4), (3, 4), (3, 4), (4,), (4,)], [(3, 6), (3, 6), (3, 6), (6,), (6,)]),
    }
    names = ["layer1", "layer2", "layer3", PENULTIMATE, "depth"]
    student, teacher = (
        {name: normal(rows, *shape, seed=seed + 10 * side + k) for k, (name, shape) in enumerate(zip(names, part, strict=True))}
        for side, part in enumerate(shapes[kind])
    )
    return featured(student, teacher, seed=seed)


def scene(both: Views) -> Scene:
    """The scene of a run whose training set is this one batch."""
    assert both.batch.targets is not None

    def taught() -> Iterator[tuple[Batch, Outputs]]:
        assert both.teacher is not None
        yield both.batch, both.teacher

    assert both.teacher is not None
    few, last = take(both, slice(0, 4)), both.teacher.features.get(PENULTIMATE)
    classes = both.student.logits.shape[-1]
    classifier = None if last is None else nn.Linear(last.shape[-1], classes, dtype=torch.float64).requires_grad_(False)
    return Scene(few, classes, both.batch.index, both.batch.targets, taught, classifier)


def take(both: Views, rows: Tensor | slice) -> Views:
    """The views' samples at these positions."""
    teacher = None if both.teacher is None else both.teacher.take(rows)
    return Views(both.student.take(rows), teacher, both.batch.take(rows))
