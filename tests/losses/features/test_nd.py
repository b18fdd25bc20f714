"""ND against the sheet's numbers, and its two regimes."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from feature_makers import FS, FT, pair
from torch import Tensor, nn
from torch.testing import assert_close

from limbeck.core.batch import Batch
from limbeck.core.errors import UsageError
from limbeck.core.outputs import Outputs, Views
from limbeck.losses.features.nd import ND
from support.makers import normal, scene

MEANS = torch.tensor([[0.8, -0.6, 0.1], [0.3, 0.9, -0.4], [0, 0, 1]], dtype=torch.float64)


def views(student: Tensor = FS, teacher: Tensor = FT) -> Views:
    both = pair(student, teacher)
    return replace(both, batch=replace(both.batch, targets=torch.tensor([0, 1, 1])))


def built(both: Views, means: Tensor = MEANS, adapter: str = "norm") -> ND:
    """ND for a training set of two samples per class, left and right of the class's mean."""

    def taught() -> Iterator[tuple[Batch, Outputs]]:
        rows = torch.arange(3)
        for shift in (-1.0, 1.0):
            features = {"penultimate": means + shift}
            yield Batch(torch.zeros(3, 1), rows, rows), Outputs(torch.zeros(3, 3), features)

    term = ND(adapter)  # type: ignore[arg-type]
    term.build(replace(scene(both), labels=torch.arange(3), taught=taught))
    return term


def test_golden_numbers() -> None:
    both = views()
    found = built(both)(both)
    assert found.tolist() == pytest.approx([0.114631, 0.328148, 0.572691], abs=5e-7)
    assert float(found.mean()) == pytest.approx(0.338490, abs=5e-7)


def test_only_the_directions_of_the_class_means_count() -> None:
    both = views()
    assert_close(built(both, MEANS * torch.tensor([[3.0], [0.1], [5.0]], dtype=torch.float64))(both), built(both)(both))


def test_the_gradient_of_the_short_and_of_the_long() -> None:
    both = views()
    student = FS.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(built(both)(views(student)).sum(), student)
    assert_close(gradient[2], -MEANS[1] / MEANS[1].norm() / FT[2].norm())  # shorter than the teacher: along the class
    assert_close((gradient * FS).sum(1)[:2], torch.zeros(2, dtype=torch.float64), rtol=0, atol=1e-12)  # longer: only turned


def test_along_the_class_and_long_enough_is_0_and_nothing_is_1() -> None:
    both = views(10 * MEANS[[0, 1, 1]])
    assert_close(built(both)(both), torch.zeros(3, dtype=torch.float64), rtol=0, atol=1e-12)
    student = torch.zeros(3, 3, dtype=torch.float64, requires_grad=True)
    value = built(both)(views(student))
    (gradient,) = torch.autograd.grad(value.sum(), student)
    assert value.tolist() == [1.0, 1.0, 1.0]
    assert torch.isfinite(gradient).all()


def test_the_adapter_between_different_widths() -> None:
    both = views(normal(3, 5))
    kinds = [[type(part) for part in built(both, adapter=name).adapter] for name in ("norm", "linear")]  # type: ignore[attr-defined]
    assert kinds == [[nn.BatchNorm1d, nn.Dropout, nn.Linear], [nn.Linear]]
    assert built(both).coupled
    assert not built(both, adapter="linear").coupled
    assert not list(built(views()).parameters())
    with pytest.raises(UsageError, match="ND: adapter must be one of norm, linear, got 'big'"):
        ND("big")  # type: ignore[arg-type]
