import pytest
import torch
from torch import nn

from limbeck.core.batch import Batch
from limbeck.core.errors import UsageError
from limbeck.core.outputs import Outputs
from limbeck.distiller import Distiller
from limbeck.losses.logits.adpa import ADPA
from limbeck.teachers.aligned import Aligned
from limbeck.teachers.single import Single

BATCH = Batch(torch.eye(2), None, torch.arange(2))


def test_it_says_what_both_say_and_parts_can_be_cut_joined_and_detached() -> None:
    after, before = nn.Linear(2, 3), nn.Linear(2, 3)
    found: Outputs = Aligned(Single(after), Single(before))(BATCH)
    joined = Outputs.concat([found.take(slice(0, 1)), found.take(slice(1, 2))]).detach()
    assert torch.equal(joined.logits, after(BATCH.inputs))
    assert joined.reference is not None
    assert torch.equal(joined.reference.logits, before(BATCH.inputs))
    assert not joined.reference.logits.requires_grad
    assert Aligned(Single(after), Single(before)).cost == {"parameters": 18, "flops": None}


def test_a_teacher_without_reference_is_refused_before_training() -> None:
    with pytest.raises(UsageError, match="reads the teacher's reference, but Single offers features, logits only; take Aligned"):
        Distiller(nn.Linear(2, 3), Single(nn.Linear(2, 3)), ADPA())
    Distiller(nn.Linear(2, 3), Aligned(Single(nn.Linear(2, 3)), Single(nn.Linear(2, 3))), ADPA()).check(BATCH)
