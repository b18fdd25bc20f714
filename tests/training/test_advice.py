"""What is said before the first step."""

from copy import deepcopy

import pytest
import torch
from torch import nn
from training_makers import net, parts, train

from limbeck.core.batch import Batch
from limbeck.core.outputs import Outputs
from limbeck.distiller import Distiller
from limbeck.losses.labels.ce import CE
from limbeck.losses.logits.kd import KD
from limbeck.teachers.single import Single
from limbeck.teachers.teacher import Teacher
from limbeck.training.advice import advice
from limbeck.training.steps.mean_teacher import MeanTeacher

FEW = Batch(torch.eye(5)[:2], torch.tensor([0, 1]), torch.arange(2))


class Awake(Teacher):
    """A teacher that stays in the mode that a module is born in."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def tap(self, names: tuple[str, ...]) -> None:
        """None here."""

    def forward(self, batch: Batch) -> Outputs:
        with torch.no_grad():
            return Outputs(self.model(batch.inputs))


def said(distiller: Distiller, *, teacher_moves: bool = False) -> list[str]:
    return list(advice(distiller, FEW, teacher_moves=teacher_moves))


def test_nothing_is_said_of_a_sound_training() -> None:
    assert said(Distiller(net(), Single(net("everything", seed=2)), KD() + CE())) == []
    assert said(Distiller(net(), None, CE())) == []
    assert said(Distiller(net(), Awake(net(seed=2)), KD() + CE())) == []  # nothing in it has two modes


def test_a_term_without_a_coefficient() -> None:
    (sentence,) = said(Distiller(net(), Single(net(seed=2)), KD() * 0 + CE() + CE() * 0.5))
    assert sentence == "KD has the coefficient 0: it is evaluated at every step and changes nothing; leave it out."


def test_a_term_that_is_trained_away_from() -> None:
    (sentence,) = said(Distiller(net(), Single(net(seed=2)), KD() * -0.5 + CE()))
    assert sentence == "KD has the coefficient -0.5: training makes it larger, away from what it asks for; is a sign wrong?"


@pytest.mark.parametrize("kind", ["batchnorm", "dropout"])
def test_a_teacher_in_training_mode(kind: str) -> None:
    (sentence,) = said(Distiller(net(), Awake(net(kind, seed=2)), KD() + CE()))
    assert "is in training mode" in sentence
    assert said(Distiller(net(), Awake(net(kind, seed=2)).eval(), KD() + CE())) == []


def test_a_teacher_that_is_the_student() -> None:
    student = net("everything")
    distiller = Distiller(student, Single(deepcopy(student)), KD() + CE())
    assert student.training
    (sentence,) = said(distiller)
    assert sentence.startswith("Student and teacher give the same answers before the first step")
    assert student.training
    assert said(distiller, teacher_moves=True) == []


def test_fit_warns_before_the_first_step_and_trains() -> None:
    with pytest.warns(UserWarning, match="KD has the coefficient 0"):
        assert train(parts(objective=KD() * 0 + CE())).records


def test_a_teacher_that_follows_its_student_may_begin_as_its_copy() -> None:
    made = parts()
    made.distiller.teacher = Single(deepcopy(made.distiller.student.model))
    assert train(made, MeanTeacher()).records


def test_a_softmax_at_the_end_of_the_student() -> None:
    (sentence,) = said(Distiller(nn.Sequential(net(), nn.Softmax(-1)), None, CE()))
    assert "look like probabilities" in sentence
    assert not said(Distiller(net(), None, CE()))
