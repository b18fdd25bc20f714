"""LELP against the sheet's numbers, its targets and the net that is kept."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from feature_makers import FS, pair, rotation
from torch import nn
from torch.testing import assert_close

from limbeck.core.batch import Batch
from limbeck.core.errors import ShapeError, UsageError
from limbeck.core.outputs import Outputs
from limbeck.functional.divergences import log_softmax
from limbeck.losses.features.lelp import LELP, class_directions, cross_entropy_of, log_target, unseen
from limbeck.students.subclasses import SubclassSum
from support.makers import feature_views, normal, scene

WEIGHT = torch.tensor([[1.0, 0, 0, 0], [0, 1, 0, 0]], dtype=torch.float64)
HIDDEN = torch.tensor(
    [
        [2, 0, 1, 0.5],
        [1.5, -0.5, -1, 0.2],
        [1.8, 0.2, 0.2, -0.7],
        [0, 2, 0.6, 1],
        [-0.3, 1.6, -0.4, -0.8],
        [0.1, 1.9, -0.2, -0.2],
    ],
    dtype=torch.float64,
)
LABELS = torch.tensor([0, 0, 0, 1, 1, 1])
CLASSES = [class_directions(HIDDEN[c == LABELS], WEIGHT, torch.eye(2, dtype=torch.float64)) for c in (0, 1)]
DIRECTIONS, CENTRES = (torch.stack([found[k] for found in CLASSES]) for k in (0, 1))
ONES = torch.ones(2, dtype=torch.float64)


def test_golden_numbers() -> None:
    # the sheet's width beta is 1 in itself, not one standard deviation
    found = log_target(HIDDEN @ WEIGHT.T, HIDDEN, DIRECTIONS, CENTRES, ONES, 1).exp()
    assert found[0].tolist() == pytest.approx([0.570607, 0.310190, 0.068869, 0.050334], abs=5e-7)
    assert found[3].tolist() == pytest.approx([0.051579, 0.067624, 0.667969, 0.212829], abs=5e-7)
    assert found[[0, 3]].unflatten(1, (2, 2)).sum(2).flatten().tolist() == pytest.approx(
        [0.880797, 0.119203, 0.119203, 0.880797], abs=5e-7
    )
    student = torch.tensor([[0.5, 0.1, -0.2, 0], [-0.1, 0.2, 0.7, 0.3]], dtype=torch.float64)
    values = cross_entropy_of(found[[0, 3]].log(), log_softmax(student))
    assert [*values.tolist(), float(values.mean())] == pytest.approx([1.217538, 1.163108, 1.190323], abs=5e-7)
    logits = SubclassSum(2)(student)
    assert logits.flatten().tolist() == pytest.approx([1.013015, 0.598139, 0.754355, 1.213015], abs=5e-7)
    assert_close(logits.softmax(1), student.softmax(1).unflatten(1, (2, 2)).sum(2))


def test_directions_are_principal_orthonormal_and_outside_of_what_the_classifier_sees() -> None:
    hidden, weight, turned = normal(20, 6), normal(3, 6, seed=1), rotation(2)
    directions, centre, width = class_directions(hidden, weight, turned)
    plain, _, _ = class_directions(hidden, weight, torch.eye(2, dtype=torch.float64))
    assert_close(directions @ directions.T, torch.eye(2, dtype=torch.float64))
    assert_close(directions @ plain.T, turned)
    assert_close(weight @ directions.T, torch.zeros(3, 2, dtype=torch.float64), rtol=0, atol=1e-12)
    along = (hidden - centre) @ directions.T
    assert_close(width, along.square().mean().sqrt())
    scatter = (HIDDEN[:3] @ unseen(WEIGHT) @ DIRECTIONS[0].T).var(0)
    assert scatter.tolist() == pytest.approx([1.023437, 0.379896], abs=5e-7)


def test_targets_sum_to_the_teachers_probabilities_and_see_nothing_that_the_logits_say() -> None:
    logits = normal(6, 2)
    found = log_target(logits, HIDDEN, DIRECTIONS, CENTRES, ONES, 3).exp()
    assert_close(found.unflatten(1, (2, 2)).sum(2), (logits / 3).softmax(1))
    assert_close(log_target(logits, HIDDEN + normal(6, 2) @ WEIGHT, DIRECTIONS, CENTRES, ONES, 3).exp(), found)
    flat = log_target(logits, HIDDEN, DIRECTIONS, CENTRES, 1e9 * ONES, 3).exp()
    assert_close(flat, (logits / 3).softmax(1).repeat_interleave(2, 1) / 2)


def test_one_subclass_is_the_cross_entropy_with_the_teacher() -> None:
    both = feature_views("vectors")
    term = LELP(1, T=2.0)
    term.build(scene(both))
    assert both.teacher is not None
    head = term.double().head(both.student.features["penultimate"])
    wanted = -4 * ((both.teacher.logits / 2).softmax(1) * (head / 2).log_softmax(1)).sum(1)
    assert_close(term(both), wanted)


def big(classes: int, rows: int = 60) -> tuple[LELP, dict[str, int]]:
    """LELP() as built for so many classes, 20 samples of the smallest, 8 dimensions beside those that the classifier sees."""
    both = pair(normal(4, 5), normal(4, 8 + classes, seed=1))

    def taught() -> Iterator[tuple[Batch, Outputs]]:
        index = torch.arange(rows)
        yield Batch(torch.zeros(rows, 1), None, index), Outputs(torch.zeros(rows, 1), {"penultimate": normal(rows, 8 + classes)})

    torch.manual_seed(0)
    term = LELP()
    classifier = nn.Linear(8 + classes, classes, dtype=torch.float64)
    stage = replace(scene(both), classes=classes, labels=torch.arange(rows) % classes, taught=taught, classifier=classifier)
    term.build(stage)
    return term, {"subclasses": term.directions.shape[1], "outputs": term.head.out_features}  # type: ignore[dict-item]


def test_subclasses_by_the_number_of_classes_and_of_dimensions() -> None:
    assert big(2)[1] == {"subclasses": 8, "outputs": 16}  # 10, but only 8 dimensions
    assert big(3)[1] == {"subclasses": 6, "outputs": 18}
    assert big(15)[1] == {"subclasses": 2, "outputs": 30}


def test_what_is_kept_ends_in_the_head() -> None:
    both = feature_views("vectors")
    term = LELP(2)
    term.build(scene(both))
    student = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)).double()
    kept = term.deploy(student)
    inputs = normal(7, 4)
    subclasses = term.head(student[:2](inputs))
    assert_close(kept(inputs).softmax(1), subclasses.softmax(1).unflatten(1, (3, 2)).sum(2))
    assert isinstance(student[2], nn.Linear)


def test_errors_are_one_sentence() -> None:
    with pytest.raises(UsageError, match=r"LELP: 5 subclasses were asked for, but the smallest class \(3 samples\) .* allow 2"):
        LELP(5).build(scene(feature_views("vectors")))
    with pytest.raises(ShapeError, match=r"LELP: embeddings must be \[B, D\] on both sides, got \[3, 3, 1\]"):
        LELP().build(scene(pair(FS.unsqueeze(2), FS)))
