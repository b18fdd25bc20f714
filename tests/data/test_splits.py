import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck.core.errors import DataError, UsageError
from limbeck.data import InMemory, split
from limbeck.data.digits import Digits


def parts_of(splits):
    return [splits.train, splits.query, splits.validation, splits.test]


def source_of(labels, **changes):
    source = InMemory(torch.zeros(len(labels), 1), torch.as_tensor(labels), name="S()")
    for name, value in changes.items():
        setattr(source, name, value)
    return source


def counts(source, rows):
    return torch.bincount(source.labels[rows], minlength=len(source.classes)).tolist()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 999), query=st.integers(1, 60), validation=st.floats(0.05, 0.3), test=st.floats(0.1, 0.4))
def test_parts_are_disjoint_sorted_and_cover_all_rows(seed, query, validation, test):
    source = source_of(torch.arange(300) % 3)
    splits = split(source, seed=seed, query=query, validation=validation, test=test)
    assert torch.cat(parts_of(splits)).sort().values.tolist() == list(range(300))
    assert all(torch.equal(part, part.sort().values) for part in parts_of(splits))
    assert all(part.dtype == torch.int64 for part in parts_of(splits))
    assert len(splits.query) == query
    assert sum(splits.counts.values()) == 300


def test_sizes_are_counts_or_shares():
    splits = split(Digits(), seed=0)
    assert splits.counts == {"train": 932, "query": 200, "validation": 126, "test": 539}
    assert split(Digits(), seed=0, query=0.1, validation=100, test=300).counts == {
        "train": 1247,
        "query": 150,
        "validation": 100,
        "test": 300,
    }


def test_test_and_validation_are_stratified_and_query_is_balanced():
    source = source_of([0] * 200 + [1] * 100 + [2] * 100)
    splits = split(source, seed=3, query=31, validation=0.2, test=0.25)
    assert counts(source, splits.test) == [50, 25, 25]
    assert counts(source, splits.validation) == [30, 15, 15]
    assert sorted(counts(source, splits.query)) == [10, 10, 11]


def test_the_truth_decides_the_classes_where_it_is_known():
    given_labels, true = torch.arange(400) % 2, torch.arange(400) // 200
    splits = split(source_of(given_labels, truth=true), seed=0, query=20)
    assert torch.bincount(true[splits.query]).tolist() == [10, 10]
    assert torch.bincount(true[splits.test]).tolist() == [60, 60]


def test_seed_moves_all_but_the_test_split():
    one, same, other, moved = (
        split(Digits(), seed=seed, test_seed=test_seed) for seed, test_seed in [(0, 0), (0, 0), (1, 0), (0, 1)]
    )
    assert all(torch.equal(a, b) for a, b in zip(parts_of(one), parts_of(same), strict=True))
    assert torch.equal(one.test, other.test)
    assert not torch.equal(one.query, other.query)
    assert not torch.equal(one.validation, other.validation)
    assert not torch.equal(one.test, moved.test)


def test_noise_does_not_move_the_splits():
    clean, noisy = split(Digits(), seed=0), split(Digits(0.4), seed=0)
    assert all(torch.equal(a, b) for a, b in zip(parts_of(clean), parts_of(noisy), strict=True))


def test_global_random_state_is_not_touched():
    import numpy as np

    torch.manual_seed(0)
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()
    split(Digits(), seed=5)
    assert torch.equal(torch.get_rng_state(), before)
    assert (np.random.get_state()[1] == numpy_before).all()


def test_fixed_test_rows_and_a_named_query_set_are_kept():
    source = source_of(torch.arange(100) % 2, test_rows=torch.arange(80, 100), query_rows=torch.tensor([5, 3]))
    splits = split(source, seed=0)
    assert splits.test.tolist() == list(range(80, 100))
    assert splits.query.tolist() == [3, 5]
    assert len(splits.validation) == 8
    assert len(splits.train) == 70


def test_a_named_query_set_never_comes_into_the_test_split():
    source = source_of(torch.arange(100) % 2, query_rows=torch.arange(40))
    for seed in range(5):
        splits = split(source, seed=0, test_seed=seed)
        assert not torch.isin(splits.test, source.query_rows).any()
        assert len(splits.test) == 30


@pytest.mark.parametrize(
    "changes, error, message",
    [
        ({"query": 0}, DataError, "split: the query set would be empty (query=0 of 70 rows); ask for at least one row."),
        ({"test": 0.001}, DataError, "split: the test set would be empty (test=0.001 of 100 rows); ask for at least one row."),
        ({"query": 70}, DataError, "S(): query=70 leaves nothing of the 63 training rows; ask for fewer."),
        ({"query": -1}, UsageError, "split: query must be a count of rows or a share in (0, 1), got -1."),
        ({"validation": 1.0}, UsageError, "split: validation must be a count of rows or a share in (0, 1), got 1.0."),
        ({"test": "most"}, UsageError, "split: test must be a finite number, got 'most'."),
        ({"test": 100}, DataError, "S(): test=100 leaves nothing of 100 rows to train on; ask for fewer."),
        ({"test": 1}, DataError, "S(): test=1 of 100 rows cannot hold each of 2 classes on both sides; ask for 2 to 98."),
        ({"seed": -3}, UsageError, "split: seed must be a whole number of at least 0, got -3."),
    ],
)
def test_sizes_that_cannot_be_cut_are_refused(changes, error, message):
    with pytest.raises(error) as caught:
        split(source_of(torch.arange(100) % 2), **{"seed": 0, "query": 10, **changes})
    assert str(caught.value) == message


def test_a_class_with_too_few_rows_is_named():
    with pytest.raises(DataError, match="class '2' has 1 row where 2 are needed to cut off test"):
        split(source_of([0] * 50 + [1] * 50 + [2]), seed=0)
    with pytest.raises(DataError, match="class '1' has 5 training rows, too few to give 5 to a balanced query set of 10"):
        split(source_of([0] * 60 + [1] * 6), seed=0, query=10, test=0.2)


def test_rare_classes_are_trained_on_and_cut_into_no_other_part():
    labels = [0] * 60 + [1] * 40 + [2] * 9 + [3]
    source = source_of(labels)
    splits = split(source, seed=0, query=10, rare=10)
    at = {name: source.labels[getattr(splits, name)].bincount(minlength=4).tolist() for name in splits.counts}
    assert at["query"] == [5, 5, 0, 0]
    assert [at[name][2:] for name in ("train", "query", "validation", "test")] == [[9, 1], [0, 0], [0, 0], [0, 0]]
    assert sum(splits.counts.values()) == len(labels)
    assert len(splits.test) == 33
    for changes in ({}, {"rare": 5}):  # a class of 9 is none of the rare ones then
        splits = split(source_of(labels[:-1]), seed=0, query=6, **changes)
        assert (source.labels[splits.query].bincount().tolist(), (source.labels[splits.test] == 2).any()) == ([2, 2, 2], True)


def test_if_all_classes_are_rare_nothing_can_be_cut():
    with pytest.raises(DataError, match="the largest class has 50 rows, which is below rare=51; lower it"):
        split(source_of([0, 1] * 50), seed=0, rare=51)


def test_a_fixed_test_split_does_not_count_towards_rare():
    source = source_of([0] * 50 + [1] * 50 + [2] * 12, test_rows=torch.tensor([0, 1, 50, 51, 100, 101, 102]))
    splits = split(source, seed=0, query=4, rare=10)
    assert (source.labels[splits.query] == 2).sum() == 0 == (source.labels[splits.validation] == 2).sum()
    assert (source.labels[splits.train] == 2).sum() == 9
