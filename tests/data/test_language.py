"""Sources of language: inputs, labels one to the right, a mask over what counts."""

import pytest
import torch

from limbeck.core.errors import DataError, UsageError
from limbeck.data import InMemory, Loader, check, split
from limbeck.data.tokens import Bytes

IDS = torch.tensor([[5, 6, 7, 8, 9], [1, 2, 3, 0, 0], [4, 4, 4, 4, 4], [2, 3, 2, 3, 0]])
COUNTED = torch.tensor([[0, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 1], [1, 1, 1, 0]]).bool()


def language(ids: torch.Tensor = IDS, counted: torch.Tensor | None = COUNTED, **more: object) -> InMemory:
    return InMemory(ids[:, :-1], ids[:, 1:].clone(), vocabulary=10, mask=counted, name="L()", **more)


def test_labels_of_two_axes_and_a_vocabulary_make_language() -> None:
    source = language()
    check(source)
    assert (source.kind, source.input_shape, source.outputs, source.classes) == ("language", (4,), 10, ())
    batch = next(iter(Loader(source, torch.tensor([3, 1]), batch_size=2, seed=0, labels=source.labels, shuffle=False)))
    assert torch.equal(batch.targets, IDS[[3, 1], 1:])
    assert torch.equal(batch.mask, COUNTED[[3, 1]])
    with pytest.raises(UsageError, match=r"labels must be int64 \[4, 4\]"):
        Loader(source, torch.arange(4), batch_size=2, seed=0, labels=torch.zeros(4, dtype=torch.int64))


def test_a_sample_is_right_when_all_its_counted_labels_are() -> None:
    truth = IDS[:, 1:].clone()
    truth[0, 0] = 1  # does not count
    truth[3, 2] = 1  # counts
    source = language(truth=truth)
    assert source.right(source.labels).tolist() == [True, True, True, False]
    assert language().right(source.labels) is None
    plain = InMemory(torch.zeros(3, 2), torch.tensor([0, 1, 1]), truth=torch.tensor([0, 1, 0]))
    assert plain.right(plain.labels).tolist() == [True, True, False]


def test_splits_keep_the_shares_of_the_domains() -> None:
    ids = torch.arange(6).repeat(100, 1) % 10
    source = language(ids, None)
    assert split(source, seed=0, query=10, validation=0.1, test=0.2).counts == {
        "train": 62, "query": 10, "validation": 8, "test": 20,
    }  # fmt: skip
    source.groups, source.group_names = (torch.arange(100) >= 80).long(), ("prose", "verse")
    parts = split(source, seed=0, query=10, validation=0.1, test=0.2)
    assert torch.bincount(source.groups[parts.test]).tolist() == [16, 4]
    assert torch.bincount(source.groups[parts.query]).tolist() == [5, 5]
    source.groups = (torch.arange(100) >= 99).long()
    with pytest.raises(DataError, match="class 'verse' has 1 row"):
        split(source, seed=0)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (language(counted=COUNTED & torch.tensor([[1], [1], [0], [1]]).bool()), "row 2 has no token that counts in the loss"),
        (language(IDS + 5, None), "labels must lie in 0 to 9, got 11 in row 0"),
        (InMemory(IDS[:, :-1], IDS[:, 2:], vocabulary=10, name="L()"), r"labels must be int64 of shape \[N, 4\]"),
        (InMemory(IDS[:, :-1] + 5, IDS[:, 1:], vocabulary=10, name="L()"), "token ids must lie in 0 to 9, row 0"),
    ],
)
def test_what_cannot_be_trained_on_is_refused(source: InMemory, words: str) -> None:
    with pytest.raises(DataError, match=words):
        check(source)


def test_it_is_shown_as_text_with_the_labels_as_given() -> None:
    ids = torch.tensor([[*b"abcdef", 257, 257]])
    counted = torch.tensor([[0, 1, 1, 1, 1, 0, 0]]).bool()
    source = InMemory(ids[:, :-1], ids[:, 1:].clone(), vocabulary=258, mask=counted)
    assert source.show(0).text == "97 98 99 100 101 102"
    source.tokenizer = Bytes()
    assert source.show(0).text == "abcdef"
    source.labels[0, 2] = ord("X")
    assert source.show(0).text == "abcXef"


def test_bytes_read_and_write_every_text() -> None:
    for text in ("", "plain", "naïve 東京 🙂", "\x00\n"):
        assert Bytes().decode([*Bytes().encode(text), Bytes.eos, Bytes.pad]) == text
    assert Bytes().joined(["ab", "c"], 3) == [97, 98, Bytes.eos]
    assert Bytes().joined([""], 3) == [Bytes.eos]
    with pytest.raises(UsageError, match=r"Bytes\(\): this tokenizer has no chat template"):
        Bytes().chat([{"role": "user", "content": "hi"}])
