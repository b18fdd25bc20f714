"""MixUp, CutMix and Chain: what is mixed, with which labels, and which terms may see it."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from limbeck.core.batch import MIXTURE, Batch
from limbeck.core.errors import ShapeError, UsageError
from limbeck.core.outputs import Outputs, Views
from limbeck.data.loader import Loader
from limbeck.data.source import InMemory
from limbeck.distiller import Distiller
from limbeck.losses.labels.ce import CE
from limbeck.losses.logits.dkd import DKD
from limbeck.losses.logits.kd import KD
from limbeck.losses.logits.standardised import Standardised
from limbeck.teachers.single import Single
from limbeck.training.fit import fit
from limbeck.transforms.chain import Chain
from limbeck.transforms.crop_flip import CropFlip
from limbeck.transforms.cutmix import CutMix, boxes
from limbeck.transforms.mixup import MixUp, mixup
from support.makers import LABELS, STUDENT, generator, golden_views, normal

SECOND = torch.tensor([2, 3, 0])


def batch_of(inputs: Tensor) -> Batch:
    return Batch(inputs, torch.arange(len(inputs)) % 4, torch.arange(len(inputs)))


def mixed_views(share: float = 0.7) -> Views:
    """The reference tensors with 0.7 of the labels 0, 1, 3 and 0.3 of 2, 3, 0."""
    columns = dict(zip(MIXTURE, (LABELS, SECOND, torch.full((3,), share)), strict=True))
    return replace(golden_views(), batch=Batch(torch.zeros(3, 1), None, torch.arange(3), None, columns))


def parts(batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    assert batch.mixture is not None
    assert batch.targets is None
    return batch.mixture


def test_golden_numbers_of_mix_kd() -> None:
    """mix-kd.md: soft cross-entropy 1.146256 and KL 0.072979 on logits over their deviation; 0.1 and 0.9 of them 0.180307."""
    hard, soft = Standardised(CE()), Standardised(KD(T=1))
    assert float(hard(mixed_views()).mean()) == pytest.approx(1.146256, abs=1e-6)
    rows = torch.tensor([0.009390, 0.065417, 0.144131], dtype=torch.float64)
    assert_close(soft(mixed_views()), rows, rtol=0, atol=1e-6)
    assert float((hard * 0.1 + soft * 0.9).per_sample(mixed_views()).mean()) == pytest.approx(0.180307, abs=1e-6)


def test_cross_entropy_with_two_labels_is_that_with_the_mixed_target() -> None:
    target = 0.7 * nn.functional.one_hot(LABELS, 4) + 0.3 * nn.functional.one_hot(SECOND, 4)
    assert_close(CE()(mixed_views()), -(target * STUDENT.log_softmax(1)).sum(1), rtol=1e-7, atol=0)
    assert_close(CE()(mixed_views(1.0)), CE()(golden_views()))


def test_terms_that_want_one_label_refuse_and_terms_without_labels_do_not_care() -> None:
    with pytest.raises(UsageError, match="DKD needs one label per sample, but these were mixed in pairs"):
        DKD()(mixed_views())
    assert_close(KD()(mixed_views()), KD()(golden_views()))
    with pytest.raises(ShapeError, match="CE: logits must be"):
        CE()(replace(mixed_views(), student=Outputs(torch.zeros(3, 2, 4))))


def test_mixup_lies_between_its_pair_with_the_same_share_for_labels() -> None:
    batch = batch_of(normal(40, 5))
    made = MixUp(alpha=0.4)(batch, generator())
    first, second, share = parts(made)
    assert torch.equal(first, batch.targets)
    assert torch.equal(made.index, batch.index)
    away = (batch.inputs - made.inputs) / (1 - share.double())[:, None]  # x_i - x_j
    partner = batch.inputs - away
    gaps = (partner[:, None] - batch.inputs[None]).abs().amax(2)
    found = gaps.argmin(1)
    assert torch.equal(second[share < 0.99], batch.targets[found][share < 0.99])
    assert gaps.amin(1)[share < 0.99].max() < 1e-4
    assert ((share >= 0) & (share <= 1)).all()


def test_the_pure_function() -> None:
    inputs = normal(3, 2, 2)
    partners, share = torch.tensor([1, 2, 0]), torch.tensor([1.0, 0.25, 0.0])
    found = mixup(inputs, partners, share)
    assert torch.equal(found[0], inputs[0])
    assert_close(found[1], 0.25 * inputs[1] + 0.75 * inputs[2])
    assert torch.equal(found[2], inputs[0])


@pytest.mark.parametrize(("mixed", "count"), [(0.0, 0), (0.1, 6), (0.5, 32), (1.0, 64)])
def test_exactly_the_share_is_mixed(mixed: float, count: int) -> None:
    batch = batch_of(normal(64, 5))
    for seed in range(3):
        made = MixUp(mixed=mixed)(batch, generator(seed))
        share = parts(made)[2]
        assert int((share < 1).sum()) == count
        assert torch.equal(made.inputs[share == 1], batch.inputs[share == 1])


@pytest.mark.parametrize("alpha", [0.2, 1.0, 5.0])
def test_shares_have_the_moments_of_the_beta_distribution(alpha: float) -> None:
    share = parts(MixUp(alpha)(batch_of(normal(20000, 1)), generator()))[2].double()
    assert float(share.mean()) == pytest.approx(0.5, abs=0.01)
    assert float(share.var()) == pytest.approx(1 / (4 * (2 * alpha + 1)), abs=0.005)


def test_cutmix_pastes_a_box_of_the_area_that_the_labels_say() -> None:
    count = 50
    images = torch.arange(count, dtype=torch.float64).view(-1, 1, 1, 1).expand(-1, 2, 8, 6).clone()
    made = CutMix()(Batch(images, torch.arange(count), torch.arange(count)), generator())
    first, second, share = parts(made)
    for number in range(count):
        own = made.inputs[number, 0] == first[number]
        other = made.inputs[number, 0] == second[number]
        assert (own | other).all()
        if first[number] != second[number]:
            assert float(own.double().mean()) == pytest.approx(float(share[number]))
            rows, columns = other.any(1).nonzero(), other.any(0).nonzero()
            assert int(other.sum()) == len(rows) * len(columns)  # a rectangle
    assert torch.equal(made.inputs[:, 0], made.inputs[:, 1])
    assert len(share.unique()) > 10


def test_boxes_have_the_area_asked_for_and_are_cut_off_at_the_borders() -> None:
    middle, corner = torch.tensor([[0.5, 0.5]]), torch.tensor([[0.0, 0.0]])
    assert boxes(torch.tensor([0.75]), middle, 8, 8).sum() == 16  # a quarter
    assert boxes(torch.tensor([0.75]), corner, 8, 8).sum() == 4
    assert boxes(torch.tensor([0.0]), middle, 8, 8).all()
    assert not boxes(torch.tensor([1.0]), middle, 8, 8).any()


@pytest.mark.parametrize("change", [MixUp(), CutMix(), Chain(CropFlip(2), MixUp(mixed=0.5))])
def test_the_generator_decides_all_and_the_batch_stays_as_it_is(change: MixUp) -> None:
    batch = batch_of(normal(16, 3, 8, 8))
    before, state = batch.inputs.clone(), torch.get_rng_state()
    one, same, other = (change(batch, generator(seed)) for seed in (0, 0, 1))
    assert torch.equal(one.inputs, same.inputs)
    assert torch.equal(parts(one)[1], parts(same)[1])
    assert not torch.equal(one.inputs, other.inputs)
    assert torch.equal(batch.inputs, before)
    assert torch.equal(torch.get_rng_state(), state)


def test_mixtures_travel_through_cuts_and_joins() -> None:
    made = MixUp()(batch_of(normal(6, 2)), generator())
    again = Batch.concat([part.take(torch.arange(len(part))) for part in made.split(3)])
    assert all(torch.equal(one, other) for one, other in zip(parts(again), parts(made), strict=True))


def test_without_labels_inputs_are_mixed_and_it_is_told_with_whom() -> None:
    made = MixUp()(Batch(normal(6, 2), None, torch.arange(6)), generator())
    assert made.mixture is None
    assert set(made.meta) == {"mixed_share", "mixed_with"}


def test_training_with_mixed_samples_lowers_the_loss() -> None:
    inputs = normal(32, 5, dtype=torch.float32)
    source = InMemory(inputs, (inputs[:, 0] > 0).long(), classes=("a", "b"), truth=None, name="x")
    loader = Loader(source, torch.arange(32), batch_size=16, seed=0, labels=source.labels, transform=MixUp())
    torch.manual_seed(0)
    made = Distiller(nn.Linear(5, 2), Single(nn.Linear(5, 2)), CE() + KD() * 0.1)
    losses = []
    for _ in range(2):
        losses.append(float(made(next(loader.epoch(99))).total.detach()))
        fit(made, loader, torch.optim.SGD(made.trained(), lr=0.5), epochs=5)
    assert losses[1] < losses[0]


def test_what_is_refused() -> None:
    for wrong in (0, -1, float("nan")):
        with pytest.raises(UsageError, match="MixUp: alpha must be"):
            MixUp(alpha=wrong)
    with pytest.raises(UsageError, match="CutMix: mixed must lie in"):
        CutMix(mixed=2)
    with pytest.raises(ShapeError, match="MixUp: inputs must be floats"):
        MixUp()(batch_of(torch.zeros(3, 2, dtype=torch.long)), generator())
    with pytest.raises(ShapeError, match="CutMix: images"):
        CutMix()(batch_of(torch.zeros(3, 2)), generator())
    with pytest.raises(UsageError, match="Chain: needs at least one transform"):
        Chain()
