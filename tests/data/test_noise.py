import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck.core.errors import DataError, UsageError
from limbeck.data import InMemory
from limbeck.data.noise import _cut_normal, flip_count, instance_dependent, noisy, pair_flip, symmetric, systematic_sample


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def labels_of(rows, classes):
    return torch.randint(0, classes, (rows,), generator=generator(9))


def features_of(rows, width=12):
    inputs = torch.randn(rows, width, generator=generator(7))
    return lambda picked: inputs[picked]


FLIPS = {
    "symmetric": lambda y, c, r, g: symmetric(y, c, r, g),
    "pair_flip": lambda y, c, r, g: pair_flip(y, c, r, g),
    "instance_dependent": lambda y, c, r, g: instance_dependent(y, c, r, features_of(len(y)), g),
}


@pytest.mark.parametrize("name", FLIPS)
@settings(max_examples=30, deadline=None)
@given(rows=st.integers(1, 200), classes=st.integers(2, 12), rate=st.floats(0, 0.99), seed=st.integers(0, 99))
def test_the_count_is_exact_and_no_label_flips_to_itself(name, rows, classes, rate, seed):
    labels = labels_of(rows, classes)
    before = labels.clone()
    flipped = FLIPS[name](labels, classes, rate, generator(seed))
    assert int((flipped != labels).sum()) == flip_count(rate, rows) == math.floor(rate * rows + 0.5)
    assert int(flipped.min()) >= 0
    assert int(flipped.max()) < classes
    assert torch.equal(labels, before)


@pytest.mark.parametrize("name", FLIPS)
def test_the_generator_decides_all(name):
    labels = labels_of(500, 5)
    torch.manual_seed(3)
    state = torch.get_rng_state()
    one, same, other = (FLIPS[name](labels, 5, 0.4, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_symmetric_reaches_every_other_class_equally():
    labels = torch.zeros(9000, dtype=torch.long)
    counts = torch.bincount(symmetric(labels, 4, 0.9, generator()), minlength=4)
    assert counts[0] == 900
    assert (counts[1:] - 2700).abs().max() < 200


def test_pair_flip_goes_to_the_next_class_and_round():
    labels = torch.arange(5).repeat(100)
    flipped = pair_flip(labels, 5, 0.45, generator())
    assert torch.equal(flipped[flipped != labels], (labels[flipped != labels] + 1) % 5)


@pytest.mark.parametrize("rate", [0.05, 0.3, 0.9])
def test_flip_rates_are_the_cut_normal(rate):
    from scipy.stats import truncnorm

    draws = _cut_normal(rate, 20000, generator())
    wanted = truncnorm(-rate / 0.1, (1 - rate) / 0.1, loc=rate, scale=0.1)
    assert 0 <= float(draws.min()) <= float(draws.max()) <= 1
    assert abs(float(draws.mean()) - wanted.mean()) < 0.003
    assert abs(float(draws.std()) - wanted.std()) < 0.003


def test_systematic_sample_takes_each_in_proportion_to_its_chance():
    chances = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5, 0.5], dtype=torch.float64)
    stream = generator()
    taken = torch.zeros(6)
    for _ in range(1500):
        sample = systematic_sample(chances, 2, stream)
        assert len(sample.unique()) == 2
        taken[sample] += 1
    assert (taken / 1500 - chances.float()).abs().max() < 0.05


def test_systematic_sample_never_takes_one_twice_where_chances_are_capped():
    chances = torch.tensor([5.0, 0.1, 0.1, 0.1, 0.0], dtype=torch.float64)
    for seed in range(50):
        sample = systematic_sample(chances, 3, generator(seed)).tolist()
        assert len(set(sample)) == 3
        assert 0 in sample


def test_instance_dependent_noise_sends_like_samples_to_like_classes():
    inputs = torch.cat([torch.randn(1, 20, generator=generator(s)).repeat(200, 1) for s in (0, 1, 2)]) * 3
    labels = torch.zeros(600, dtype=torch.long)
    flipped = instance_dependent(labels, 6, 0.5, lambda rows: inputs[rows], generator())
    for group in flipped.view(3, 200):
        changed = group[group != 0]
        assert float((changed == changed.mode().values).float().mean()) > 0.5  # 0.2 if the sample had no say
    assert len({int(group[group != 0].mode().values) for group in flipped.view(3, 200)}) > 1


def source_of(rows=100, classes=4, **changes):
    source = InMemory(torch.randn(rows, 3, generator=generator()), torch.arange(classes).repeat(rows // classes), name="S()")
    for name, value in changes.items():
        setattr(source, name, value)
    return source


@pytest.mark.parametrize("noise", ["symmetric", "pair_flip", "instance_dependent"])
def test_noise_leaves_test_and_named_query_rows_alone(noise):
    source = source_of(test_rows=torch.arange(60, 100), query_rows=torch.arange(10))
    labels, truth = noisy(source, 0.5, noise, seed=0)
    assert torch.equal(truth, source.labels)
    assert int((labels != truth).sum()) == 25
    assert torch.equal(labels[60:], truth[60:])
    assert torch.equal(labels[:10], truth[:10])


def test_no_noise_changes_nothing_and_knows_no_truth():
    source = source_of()
    labels, truth = noisy(source, 0.0, "symmetric", seed=0)
    assert labels is source.labels
    assert truth is None


def test_a_known_truth_stays_the_truth():
    true = torch.zeros(100, dtype=torch.long)
    assert torch.equal(noisy(source_of(truth=true), 0.2, "symmetric", seed=0)[1], true)


def test_instance_dependent_noise_on_tokens():
    source = InMemory(torch.randint(0, 9, (50, 4), generator=generator()), torch.arange(50) % 5, vocabulary=9)
    labels, truth = noisy(source, 0.4, "instance_dependent", seed=0)
    assert int((labels != truth).sum()) == 20


@pytest.mark.parametrize("rate", [-0.1, 1.0, 1.5, float("nan"), True, "much"])
def test_rates_outside_zero_to_one_are_refused(rate):
    with pytest.raises(UsageError, match="label_noise must"):
        noisy(source_of(), rate, "symmetric", seed=0)


def test_an_unknown_noise_is_refused_with_the_nearest():
    with pytest.raises(UsageError) as caught:
        noisy(source_of(), 0.2, "symetric", seed=0)
    assert str(caught.value) == (
        "S(): noise 'symetric' is none of symmetric, pair_flip, instance_dependent, human:<file>:<key>; did you mean 'symmetric'?"
    )


def test_a_wrong_seed_is_refused():
    with pytest.raises(UsageError, match=r"S\(\): seed must be a whole number of at least 0, got -1"):
        noisy(source_of(), 0.2, "symmetric", seed=-1)


@pytest.mark.parametrize("ending", ["npz", "parquet", "csv"])
def test_human_labels_from_a_file(tmp_path, ending):
    import pyarrow as pa
    from pyarrow import csv, parquet

    people, file = np.arange(100) % 3, tmp_path / f"people.{ending}"
    if ending == "npz":
        np.savez(file, worst=people.astype(np.uint8))
    elif ending == "parquet":
        parquet.write_table(pa.table({"worst": people}), file)
    else:
        csv.write_csv(pa.table({"worst": people}), file)
    source = source_of()
    labels, truth = noisy(source, 0.0, f"human:{file}:worst", seed=0)
    assert labels.tolist() == people.tolist()
    assert torch.equal(truth, source.labels)


def test_human_labels_may_be_there_for_the_training_rows_alone(tmp_path):
    np.savez(tmp_path / "people.npz", worst=np.full(60, 3))
    source = source_of(test_rows=torch.arange(40), query_rows=torch.tensor([99]))
    labels, _ = noisy(source, 0.0, f"human:{tmp_path / 'people.npz'}:worst", seed=0)
    assert torch.equal(labels[:40], source.labels[:40])
    assert (labels[40:99] == 3).all()
    assert labels[99] == source.labels[99]


def test_human_labels_that_do_not_fit_are_refused(tmp_path):
    file = tmp_path / "people.npz"
    np.savez(
        file, short=np.zeros(7), high=np.full(100, 4), half=np.full(100, 0.5), low=np.full(100, -1), words=np.array(["a"] * 100)
    )
    for key, message in {
        "short": "has 7 labels for 100 rows",
        "high": "has label 4, but there are 4 classes",
        "half": "must be whole numbers from 0, got 0.5 in row 0",
        "low": "must be whole numbers from 0, got -1 in row 0",
        "words": "must be one class number per sample, got <U1 of shape",
        "shrt": "has no 'shrt', only half, high, low, short, words; did you mean 'short'?",
    }.items():
        with pytest.raises(DataError) as caught:
            noisy(source_of(), 0.0, f"human:{file}:{key}", seed=0)
        assert message in str(caught.value)
    with pytest.raises(DataError, match=r"there is no file .*did you mean 'people.npz'"):
        noisy(source_of(), 0.0, f"human:{tmp_path / 'poeple.npz'}:short", seed=0)
    with pytest.raises(UsageError, match="names no file and key"):
        noisy(source_of(), 0.0, "human:short", seed=0)
    with pytest.raises(UsageError, match="human labels bring their own noise"):
        noisy(source_of(), 0.1, f"human:{file}:short", seed=0)
