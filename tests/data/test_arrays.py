import pickle

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from limbeck.core.errors import DataError, UsageError
from limbeck.data import split
from limbeck.data.arrays import Arrays, as_inputs


@pytest.fixture
def save(tmp_path):
    def write(**arrays):
        np.savez(tmp_path / "x.npz", **arrays)
        return str(tmp_path / "x.npz")

    return write


def random(*shape):
    return np.random.default_rng(0).normal(size=shape)


def pixels(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


LABELS = np.arange(30) % 3


def test_vectors_are_taken_as_they_are(save):
    inputs = random(30, 4)
    source = Arrays(save(inputs=inputs, labels=LABELS))
    assert (source.kind, source.input_shape, source.classes, source.truth) == ("vector", (4,), ("0", "1", "2"), None)
    assert_close(source.read(torch.tensor([3, 1]))[0], torch.tensor(inputs[[3, 1]], dtype=torch.float32))


@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
def test_byte_images_are_normalised_by_channel_over_the_training_rows(save, layout):
    images = pixels(30, 8, 9, 3)
    images[20:] = 255
    kept = images if layout == "NHWC" else images.transpose(0, 3, 1, 2)
    source = Arrays(save(inputs=kept, labels=LABELS, is_test=np.arange(30) >= 20))
    inputs, _ = source.read(torch.arange(30))
    scaled = images / 255
    mean, std = scaled[:20].mean((0, 1, 2)), scaled[:20].std((0, 1, 2))
    assert source.input_shape == (3, 8, 9)
    assert_close(inputs, torch.tensor(((scaled - mean) / std).transpose(0, 3, 1, 2), dtype=torch.float32), atol=1e-5, rtol=1e-5)
    assert source.test_rows.tolist() == list(range(20, 30))


def test_grey_images_get_one_channel(save):
    assert Arrays(save(inputs=pixels(30, 6, 6), labels=LABELS)).input_shape == (1, 6, 6)
    source = Arrays(save(inputs=random(30, 6, 6), labels=LABELS))
    assert (source.kind, source.input_shape, source.scaling) == ("image", (1, 6, 6), None)


def test_training_and_test_rows_may_be_kept_apart(save):
    source = Arrays(
        save(
            train_inputs=random(30, 4),
            train_labels=LABELS,
            train_true_labels=(LABELS + 1) % 3,
            test_inputs=random(6, 4),
            test_labels=LABELS[:6],
            test_true_labels=LABELS[:6],
            class_names=np.array(["x", "y", "z"]),
        )
    )
    assert source.test_rows.tolist() == list(range(30, 36))
    assert source.classes == ("x", "y", "z")
    assert torch.equal(source.truth[:30], (source.labels[:30] + 1) % 3)
    assert torch.equal(source.truth[30:], source.labels[30:])


def test_training_rows_alone_leave_the_test_split_to_be_cut(save):
    source = Arrays(save(train_inputs=random(30, 4), train_labels=LABELS))
    assert source.test_rows is None
    assert split(source, seed=0, query=3, validation=3).counts["test"] == 9


def test_a_query_set_may_be_marked(save):
    source = Arrays(save(inputs=random(30, 4), labels=LABELS, is_query=np.arange(30) < 5), label_noise=0.4)
    assert source.query_rows.tolist() == [0, 1, 2, 3, 4]
    assert torch.equal(source.labels[:5], source.truth[:5])
    assert int((source.labels != source.truth).sum()) == 10


def test_token_ids_keep_their_mask(save):
    ids, mask = np.arange(120).reshape(30, 4) % 9, np.arange(4) < 1 + np.arange(30)[:, None] % 4
    source = Arrays(save(inputs=ids, labels=LABELS, mask=mask, vocabulary=12))
    assert (source.kind, source.vocabulary, source.input_shape) == ("tokens", 12, (4,))
    inputs, read = source.read(torch.arange(30))
    assert inputs.dtype == torch.int64
    assert read.tolist() == mask.tolist()
    assert Arrays(save(inputs=ids, labels=LABELS, mask=mask)).vocabulary == 9


def test_noise_and_name(save):
    path = save(inputs=random(30, 4), labels=LABELS)
    source = Arrays(path, 0.5, noise="pair_flip", seed=3)
    assert source.name == f"Arrays({path!r}, label_noise=0.5, noise='pair_flip', seed=3)"
    assert int((source.labels != torch.tensor(LABELS)).sum()) == 15
    assert source.truth.tolist() == LABELS.tolist()


GOOD = {"inputs": random(30, 4), "labels": LABELS}


def holed(value):
    inputs = random(30, 4)
    inputs[12, 2] = value
    return inputs


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"inputs": holed(np.nan)}, "row 12 has NaN or infinite values"),
        ({"inputs": holed(np.inf)}, "row 12 has NaN or infinite values"),
        ({"inputs": holed(1e300)}, "row 12 has NaN or infinite values"),
        ({"inputs": random(29, 4)}, "29 samples and 30 labels"),
        ({"inputs": random(30)}, "inputs must be numbers of shape [N, F], [N, H, W]"),
        ({"inputs": np.array(["a"] * 30)}, "inputs must be numbers"),
        ({"inputs": random(0, 4), "labels": np.arange(0)}, "inputs must be numbers"),
        ({"labels": LABELS + 0.5}, "labels must be whole numbers from 0, got 0.5 in row 0"),
        ({"labels": LABELS - 2}, "got -2 in row 0; number the classes from 0, and write -1 where there is no label."),
        ({"labels": np.where(LABELS == 1, np.nan, LABELS)}, "labels must be whole numbers from 0, got nan in row 1"),
        ({"labels": LABELS + 1}, "class '0' (number 0) has no rows"),
        ({"labels": np.eye(30)}, "labels must be one class number per sample, got float64 of shape [30, 30]"),
        ({"class_names": np.array(["x", "y"])}, "labels must lie in 0 to 1, got 2 in row 2"),
        ({"labels": np.zeros(30, dtype=int)}, "at least 2 classes are needed, got 1"),
        ({"true_labels": LABELS[:4]}, "30 samples and 4 true labels"),
        ({"is_test": np.arange(30)}, "is_test must hold 0 or 1 for each of the 30 rows"),
        ({"is_test": np.zeros(30)}, "the test rows are named, but there are none"),
        ({"is_test": LABELS == 0, "is_query": LABELS == 0}, "row 0 is in the test split and in the query set"),
        ({"mask": np.ones((30, 4))}, "token ids must be whole numbers [N, L], got float64"),
        ({"inputs": LABELS[:, None], "mask": np.ones((30, 4))}, "mask [30, 4] and token ids [30, 1] differ in shape"),
        ({"inputs": LABELS[:, None] - 1, "vocabulary": 4}, "token ids must lie in 0 to 3, row 0 has another"),
    ],
)
def test_wrong_arrays_are_refused(save, changes, message):
    with pytest.raises(DataError) as caught:
        Arrays(save(**{**GOOD, **changes}))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_keys_and_files_are_named(save, tmp_path):
    path = save(input=random(30, 4), labels=LABELS)
    with pytest.raises(DataError, match=r"has no 'inputs', only input, labels; did you mean 'input'\?"):
        Arrays(path)
    with pytest.raises(DataError, match="has no 'test_labels'"):
        Arrays(save(train_inputs=random(30, 4), train_labels=LABELS, test_inputs=random(5, 4)))
    with pytest.raises(DataError, match="train_inputs and test_inputs differ in the shape of a row"):
        Arrays(save(train_inputs=random(30, 4), train_labels=LABELS, test_inputs=random(5, 3), test_labels=LABELS[:5]))
    with pytest.raises(DataError, match=r"there is no file '.*y\.npz'; did you mean 'x\.npz'\?"):
        Arrays(str(tmp_path / "y.npz"))
    with pytest.raises(DataError, match=r"the folder '.*nowhere' does not exist either\."):
        Arrays(str(tmp_path / "nowhere" / "y.npz"))
    with pytest.raises(DataError, match="is a folder; name a file"):
        Arrays(str(tmp_path))


def test_nothing_is_ever_unpickled(save, tmp_path):
    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("code was run",))

    with pytest.raises(DataError, match="holds Python objects, which are never loaded"):
        Arrays(save(inputs=np.array([Trap()] * 3, dtype=object), labels=np.arange(3)))
    (tmp_path / "trap.npz").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(DataError, match=r"is no \.npz file or is damaged"):
        Arrays(str(tmp_path / "trap.npz"))


def test_a_truncated_file_is_refused(save, tmp_path):
    path = save(**GOOD)
    (tmp_path / "cut.npz").write_bytes((tmp_path / "x.npz").read_bytes()[:400])
    with pytest.raises(DataError, match=r"is no \.npz file or is damaged"):
        Arrays(str(tmp_path / "cut.npz"))
    broken = bytearray((tmp_path / "x.npz").read_bytes())
    broken[300:310] = b"0123456789"
    (tmp_path / "broken.npz").write_bytes(bytes(broken))
    with pytest.raises(DataError, match=r"is no \.npz file or is damaged"):
        Arrays(str(tmp_path / "broken.npz"))
    assert Arrays(path)


def test_wrong_noise_is_refused(save):
    with pytest.raises(UsageError, match=r"label_noise must lie in \[0, 1\), got 1.0"):
        Arrays(save(**GOOD), label_noise=1.0)


def test_inputs_do_not_depend_on_how_an_array_is_laid_out_in_memory():
    images = random(2, 5, 6, 3)
    assert_close(as_inputs(images, "x"), torch.tensor(images.transpose(0, 3, 1, 2), dtype=torch.float32))
    assert as_inputs(torch.zeros(2, 4, dtype=torch.int32), "x").dtype == torch.float32
