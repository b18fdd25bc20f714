from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from limbeck.core.errors import DataError, UsageError
from limbeck.data import InMemory, Loader, Shown, Source, whole


def jitter(batch, generator):
    return replace(batch, inputs=batch.inputs + torch.rand(batch.inputs.shape, generator=generator))


def loader_of(source, **changes):
    said = {"rows": torch.arange(0, 300, 2), "batch_size": 32, "seed": 7, "labels": source.labels, **changes}
    return Loader(source, said.pop("rows"), **said)


def same(one, other):
    parts = zip(one, other, strict=True)
    return all(
        torch.equal(a.inputs, b.inputs) and torch.equal(a.index, b.index) and torch.equal(a.targets, b.targets) for a, b in parts
    )


def test_an_epoch_reads_every_row_once_with_its_own_input_and_label(blobs):
    loader = loader_of(blobs, drop_last=False)
    batches = list(loader.epoch(0))
    rows = torch.cat([batch.index for batch in batches])
    assert len(loader) == len(batches) == 5
    assert rows.sort().values.tolist() == list(range(0, 300, 2))
    for batch in batches:
        assert torch.equal(batch.inputs, blobs.inputs[batch.index])
        assert torch.equal(batch.targets, blobs.labels[batch.index])


def test_a_last_batch_that_is_not_full_is_dropped(blobs):
    loader = loader_of(blobs)
    assert len(loader) == 4
    assert [len(batch) for batch in loader.epoch(0)] == [32] * 4


def test_labels_are_those_handed_in(blobs):
    other = (blobs.labels + 1) % 3
    batch = next(iter(loader_of(blobs, labels=other).epoch(0)))
    assert torch.equal(batch.targets, other[batch.index])


def test_order_depends_on_seed_and_epoch_alone(blobs):
    one, twin, other = loader_of(blobs), loader_of(blobs), loader_of(blobs, seed=8)
    list(one.epoch(0))
    assert same(one.epoch(3), twin.epoch(3))
    assert not torch.equal(one.order(3), one.order(4))
    assert not torch.equal(one.order(3), other.order(3))


def test_without_shuffle_the_order_is_that_of_the_rows(blobs):
    loader = loader_of(blobs, rows=torch.tensor([4, 2, 9]), batch_size=2, shuffle=False, drop_last=False)
    assert [batch.index.tolist() for batch in loader.epoch(5)] == [[4, 2], [9]]


@pytest.mark.parametrize("start", [0, 1, 3, 4])
def test_an_epoch_resumes_at_any_step_with_the_same_batches(blobs, start):
    loader = loader_of(blobs, transform=jitter)
    assert same(loader.epoch(2, start), list(loader.epoch(2))[start:])


def test_the_transform_is_random_by_seed_epoch_and_step(blobs):
    plain = loader_of(blobs, shuffle=False)
    noise = {}
    for seed in (7, 8):
        for epoch in (0, 1):
            for step, (moved, kept) in enumerate(
                zip(loader_of(blobs, shuffle=False, seed=seed, transform=jitter).epoch(epoch), plain.epoch(epoch), strict=True)
            ):
                noise[seed, epoch, step] = moved.inputs - kept.inputs
    first = noise.pop((7, 0, 0))
    assert all(not torch.allclose(first, other) for other in noise.values())


def test_global_random_state_is_not_touched(blobs):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    list(loader_of(blobs, transform=jitter).epoch(0))
    list(loader_of(blobs, workers=1).epoch(0))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")  # where there is one processor
def test_workers_read_the_same_batches(blobs):
    assert same(loader_of(blobs, workers=2, transform=jitter).epoch(1, 1), loader_of(blobs, transform=jitter).epoch(1, 1))


def test_a_run_may_stop_in_the_middle_of_an_epoch_with_workers(blobs):
    batches = loader_of(blobs, workers=1).epoch(0)
    next(batches)
    del batches


def test_masks_travel_with_their_tokens():
    mask = torch.arange(4)[None, :] < torch.tensor([[1], [2], [3], [4]])
    source = InMemory(torch.ones(4, 4, dtype=torch.long), torch.tensor([0, 1, 0, 1]), vocabulary=2, mask=mask)
    batch = next(iter(Loader(source, torch.arange(4), batch_size=4, seed=0, labels=source.labels).epoch(0)))
    assert torch.equal(batch.mask, mask[batch.index])


def test_whole_is_one_batch_in_the_order_of_the_rows(blobs):
    batch = whole(blobs, torch.tensor([7, 3]), blobs.labels)
    assert batch.index.tolist() == [7, 3]
    assert_close(batch.inputs, blobs.inputs[[7, 3]])
    assert batch.targets.tolist() == blobs.labels[[7, 3]].tolist()


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"rows": torch.tensor([], dtype=torch.long)}, "Loader: there are no rows of Blobs() to read."),
        ({"batch_size": 151}, "Loader: batch_size=151 is more than the 150 rows; take a smaller batch or drop_last=False."),
        ({"batch_size": 0}, "Loader: batch_size must be a whole number of at least 1, got 0."),
        ({"workers": -1}, "Loader: workers must be a whole number of at least 0, got -1."),
        (
            {"labels": torch.zeros(4, dtype=torch.long)},
            "Loader: labels must be int64 [300], one per row of Blobs(), got torch.int64 of shape [4].",
        ),
    ],
)
def test_wrong_arguments_are_refused(blobs, changes, message):
    with pytest.raises(UsageError) as caught:
        loader_of(blobs, **changes)
    assert str(caught.value) == message


class Late(Source):
    """A source that is read lazily and turns bad in row 70."""

    def __init__(self):
        self.name, self.kind, self.classes = "Late()", "vector", ("a", "b")
        self.labels, self.input_shape = torch.arange(100) % 2, (1,)

    def read(self, rows: Tensor) -> tuple[Tensor, Tensor | None]:
        return torch.where(rows == 70, torch.nan, rows.float())[:, None], None

    def show(self, row: int) -> Shown:
        return Shown("text", text=str(row))


def test_what_is_read_lazily_is_checked_as_it_is_read():
    source = Late()
    with pytest.raises(DataError, match=r"Late\(\): row 70 has NaN or infinite values"):
        list(Loader(source, torch.arange(100), batch_size=50, seed=0, labels=source.labels).epoch(0))
    with pytest.raises(DataError, match="row 70"):
        whole(source, torch.arange(60, 80), source.labels)
