"""The same values as TRL's GKD on the same tensors, where TRL is installed.

TRL's convention: labels of -100 are masked, `batchmean` divides the sum over all tokens of the batch by their number; `beta`
is the teacher's share, 0 means KL(teacher || student) and 1 KL(student || teacher), though its Jensen-Shannon divergence tends
to 0 at both. It has no factor T^2. Here a term gives each sample its own mean, so that TRL's number is the mean of these in
proportion to the samples' tokens.
"""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from limbeck.core.outputs import Views
from limbeck.core.term import Term
from limbeck.losses.logits.jsd import JSD
from limbeck.losses.logits.kd import KD
from limbeck.losses.logits.reversekl import ReverseKL
from support.makers import token_views

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # TRL warns that its experimental part is one


def theirs(both: Views, beta: float, T: float) -> Tensor:
    pytest.importorskip("trl", exc_type=ImportError)
    trainer = pytest.importorskip("trl.experimental.gkd", exc_type=ImportError).GKDTrainer
    assert both.teacher is not None
    assert both.batch.mask is not None
    labels = torch.zeros_like(both.batch.mask, dtype=torch.int64).masked_fill(~both.batch.mask, -100)
    value: Tensor = trainer.generalized_jsd_loss(both.student.logits, both.teacher.logits, labels, beta, T)
    return value


@pytest.mark.parametrize("T", [0.9, 1.0, 4.0])
@pytest.mark.parametrize("beta", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_gkd(beta: float, T: float) -> None:
    both = token_views(rows=7, length=5, classes=11)
    assert both.batch.mask is not None
    term: Term = KD(T=T) if beta == 0 else ReverseKL(T=T) if beta == 1 else JSD(beta, T=T)
    counts = both.batch.mask.sum(1)
    ours = (term(both) * counts).sum() / counts.sum() / T**2
    assert_close(ours, theirs(both, beta, T), rtol=1e-10, atol=1e-12)
