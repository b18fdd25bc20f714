import pytest
import torch
from torch.testing import assert_close

from limbeck.core.errors import UsageError
from limbeck.core.outputs import Outputs, Views
from limbeck.losses.labels.ce import CE
from limbeck.losses.logits.kd import KD
from limbeck.losses.logits.onreplies import OnReplies
from support.makers import token_views, views


def test_the_loss_of_a_prompt_is_that_of_the_paper() -> None:
    """DCKD: L_SFT on the preferred reply, and alpha times the divergence on both, summed over the replies to a prompt."""
    both = token_views()  # rows 0, 2, 4 are preferred replies, 1, 3, 5 rejected ones
    found = (OnReplies(CE(), "chosen") + KD(T=1) * 0.2).per_sample(both)
    ce, kl = CE()(both), KD(T=1)(both)
    wanted = ce[0::2] + 0.2 * (kl[0::2] + kl[1::2])
    assert_close(found[0::2] + found[1::2], wanted)
    assert_close(found.mean(), wanted.mean() / 2)


def test_other_rows_get_no_value_and_no_gradient() -> None:
    both = token_views()
    logits = both.student.logits.clone().requires_grad_()
    value = OnReplies(CE(), "rejected")(Views(Outputs(logits), both.teacher, both.batch))
    (slope,) = torch.autograd.grad(value.sum(), logits)
    assert (value[0::2] == 0).all()
    assert (slope[0::2] == 0).all()
    assert (value[1::2] > 0).all()


def test_a_batch_that_says_nothing_of_replies_is_refused() -> None:
    with pytest.raises(UsageError, match=r"read the data by Preferences\(\.\.\.\)"):
        OnReplies()(views(torch.zeros(2, 3), None, torch.tensor([0, 1])))
