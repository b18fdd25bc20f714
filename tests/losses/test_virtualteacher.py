"""VirtualTeacher: KD from the distribution that it makes up."""

import torch
from torch.testing import assert_close

from limbeck.losses.labels.ce import CE
from limbeck.losses.logits.kd import KD
from limbeck.losses.logits.virtualteacher import VirtualTeacher
from support.makers import LABELS, STUDENT, golden_views, views


def test_it_is_kd_from_the_made_up_distribution() -> None:
    made_up = torch.full((3, 4), 0.1 / 3, dtype=torch.float64)
    made_up[torch.arange(3), LABELS] = 0.9
    for T in (1.0, 20.0):
        assert_close(VirtualTeacher(0.9, T)(golden_views()), KD(T=T)(views(STUDENT, made_up.log(), None)))


def test_at_temperature_1_it_is_label_smoothing_less_an_entropy() -> None:
    # correct = 1 - e + e / C with smoothing e: e = 0.2 and C = 4 give 0.85; the other classes have 0.05 each
    entropy = -(0.85 * torch.tensor(0.85, dtype=torch.float64).log() + 3 * 0.05 * torch.tensor(0.05, dtype=torch.float64).log())
    assert_close(VirtualTeacher(0.85, 1)(golden_views()), CE(smoothing=0.2)(golden_views()) - entropy)


def test_it_rests_at_the_made_up_distribution() -> None:
    student = torch.tensor([[0.97, 0.01, 0.01, 0.01]], dtype=torch.float64).log()
    assert VirtualTeacher(0.97)(views(student, None, torch.tensor([0]))).abs() < 1e-12
