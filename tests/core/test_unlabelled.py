"""Samples without a label in the loss: what needs labels is 0 for them, all else takes them as they are."""

from dataclasses import replace

import torch
from torch.testing import assert_close

from limbeck.core.outputs import Outputs
from limbeck.losses.labels.ce import CE
from limbeck.losses.logits.dkd import DKD
from limbeck.losses.logits.kd import KD
from limbeck.training.teacher_update import TeacherRule
from support.makers import LABELS, STUDENT, TEACHER, golden_views, views


def test_the_sheets_sum_over_labelled_and_unlabelled_batches_of_the_same_size() -> None:
    """dho.md: lambda CE(labelled) + (1 - lambda) (KD(labelled) + KD(unlabelled)), each a mean over its own samples.

    With as many samples without labels as with, it is twice the mean over all of them. Here lambda = 0.5 and the samples
    without labels are the same ones: 0.5 x 1.382955 + 0.5 x (0.124476 + 0.124476), with the sheet's numbers for each.
    """
    twice = views(STUDENT.repeat(2, 1), TEACHER.repeat(2, 1), torch.cat([LABELS, torch.full((3,), -1)]))
    reversed_head = replace(twice, student=Outputs(STUDENT.flip(1).repeat(2, 1)))
    hard, soft = (CE() * 1.0).per_sample(reversed_head), (KD(T=2) * 1.0).per_sample(twice)
    found = 2 * (0.5 * hard + 0.5 * soft).mean()
    assert_close(float(found), 0.5 * 1.382955 + 0.5 * (0.124476 + 0.124476), rtol=0, atol=2e-6)


def test_a_term_that_needs_labels_and_a_teacher_skips_them_too() -> None:
    known = golden_views()
    some = replace(known, batch=replace(known.batch, targets=torch.tensor([0, -1, 3])))
    found, all_of_them = (DKD() + KD())(some), (DKD() + KD())(known)
    assert_close(found[0], all_of_them[0] * torch.tensor([1, 0, 1]))
    assert torch.equal(found[1], all_of_them[1])


def test_a_teacher_that_is_trained_learns_from_the_student_alone_there() -> None:
    known = golden_views()
    some = replace(known.batch, targets=torch.tensor([0, -1, 3]))
    rule = TeacherRule(alpha=0.4, T=2.0)
    found, soft = rule.loss(TEACHER, STUDENT, some), rule.loss(TEACHER, STUDENT, known.batch)
    hard = -TEACHER.log_softmax(1)[1, 1]
    assert_close(found, soft - torch.tensor([0.0, 0.6, 0.0], dtype=torch.float64) * hard)
