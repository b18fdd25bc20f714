import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck.core.errors import DataError, UsageError
from limbeck.data.pieces import Pieces
from limbeck.data.table import Table
from limbeck.data.text import Text
from limbeck.data.token_noise import random_tokens, swapped
from limbeck.data.tokens import Bytes, Tokens, Turn

EOS, PAD = Bytes.eos, Bytes.pad


def counted(source: Text) -> list[int]:
    """All labels that count, in the order of the rows."""
    inputs, mask = source.read(torch.arange(len(source)))
    assert torch.equal(inputs[:, 1:], source.labels[:, :-1])
    return source.labels[mask].tolist()


def table(folder: Path, name: str = "t.parquet", **columns: list[object]) -> str:
    pq.write_table(pa.table(columns), folder / name)
    return str(folder / name)


@settings(max_examples=40, deadline=None)
@given(text=st.text("abc", min_size=1, max_size=40), length=st.integers(1, 9), data=st.data())
def test_packed_at_any_stride_every_token_but_the_first_counts_once(
    tmp_path_factory: pytest.TempPathFactory, text: str, length: int, data: st.DataObject
) -> None:
    stride = data.draw(st.integers(1, length))
    path = tmp_path_factory.mktemp("t") / "t.txt"
    path.write_text(text)
    source = Text(str(path), length=length, stride=stride)
    assert source.input_shape == (length,)
    assert counted(source) == [*text.encode()[1:], EOS]


def test_texts_are_packed_one_after_the_other_and_ended(tmp_path: Path) -> None:
    source = Text(table(tmp_path, text=["abc", "de"]), length=4)
    # a b c EOS d e EOS: rows "a b c EOS | d" and "d e EOS" with padding
    assert source.labels.tolist() == [[98, 99, EOS, 100], [101, EOS, PAD, PAD]]
    assert source.read(torch.tensor([1]))[0].tolist() == [[100, 101, EOS, PAD]]
    assert [source.show(row).text for row in (0, 1)] == ["abcd", "de"]
    assert source.name == f"Text('{tmp_path}/t.parquet', tokenizer=Bytes(), length=4)"


def test_parts_and_domains_never_share_a_row(tmp_path: Path) -> None:
    columns = {"text": ["aa", "bb", "cc", "dd", "ee"], "split": ["train", "test", "train", "train", "train"]}
    columns |= {"query": [0, 0, 0, 1, 0], "kind": ["x", "x", "y", "x", "x"]}
    source = Text(table(tmp_path, **columns), length=5, group="kind")
    assert [source.show(row).text for row in range(4)] == ["aaee", "bb", "cc", "dd"]
    assert (source.test_rows.tolist(), source.query_rows.tolist()) == ([1], [3])
    assert (source.groups.tolist(), source.group_names) == ([0, 0, 1, 0], ("x", "y"))


def test_a_second_file_is_the_test_split(tmp_path: Path) -> None:
    for name, text in (("a.txt", "abcdef"), ("b.txt", "xyz")):
        (tmp_path / name).write_text(text)
    source = Text(str(tmp_path / "a.txt"), length=3, test=str(tmp_path / "b.txt"))
    assert source.test_rows.tolist() == [2]
    assert source.show(2).text == "xyz"


@pytest.mark.parametrize("ending", ["parquet", "jsonl"])
def test_prompts_do_not_count(tmp_path: Path, ending: str) -> None:
    columns = {"ask": ["ab", "c"], "more": ["x", ""], "say": ["de", "fgh"]}
    if ending == "jsonl":
        rows = [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]
        (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        table(tmp_path, **columns)
    source = Text(str(tmp_path / f"t.{ending}"), prompt="ask+more", completion="say", length=6)
    assert source.labels[0].tolist() == [*b"b\nxde", EOS]
    assert source.read(torch.arange(2))[1].int().tolist() == [[0, 0, 0, 1, 1, 1], [1, 1, 1, 1, 0, 0]]
    assert counted(source) == [*b"de", EOS, *b"fgh", EOS]
    packed = Text(str(tmp_path / f"t.{ending}"), prompt="ask+more", completion="say", length=6, packing=True)
    assert counted(packed) == counted(source)
    with pytest.raises(
        DataError, match=r"in 1 rows, the first row 0, nothing of the completion is left in 3 tokens \(prompts have"
    ):
        Text(str(tmp_path / f"t.{ending}"), prompt="ask+more", completion="say", length=3)


class Chatty(Tokens):
    """Bytes with a chat template: <role:content>."""

    size, eos, pad = 258, 256, 257

    def __init__(self, same: bool = True) -> None:
        self.same = same

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def decode(self, ids: list[int]) -> str:
        return bytes(token for token in ids if token < 256).decode()

    def chat(self, turns: list[Turn], *, answer: bool = False) -> list[int]:
        head = "" if self.same or answer else "!"
        return self.encode(head + "".join(f"<{t['role']}:{t['content']}>" for t in turns) + "<assistant:" * answer)

    def __repr__(self) -> str:
        return "Chatty()"


def test_a_chat_template_counts_the_answer_and_its_end(tmp_path: Path) -> None:
    path = table(tmp_path, ask=["hi"], say=["yo"])
    source = Text(path, tokenizer=Chatty(), prompt="ask", completion="say", chat=True, length=40)
    assert bytes(counted(source)) == b"yo>"
    assert source.show(0).text == "<user:hi><assistant:yo>"
    with pytest.raises(DataError, match="row 0: the chat template writes the question differently"):
        Text(path, tokenizer=Chatty(same=False), prompt="ask", completion="say", chat=True, length=40)
    with pytest.raises(UsageError, match="no chat template"):
        Text(path, prompt="ask", completion="say", chat=True)


def test_noise_replaces_the_counted_labels_of_a_share_of_the_rows_and_keeps_the_truth(tmp_path: Path) -> None:
    path = table(
        tmp_path, ask=["q"] * 20, say=[chr(97 + row) * (1 + row % 3) for row in range(20)], split=["test"] * 5 + ["train"] * 15
    )
    clean = Text(path, prompt="ask", completion="say", length=4)
    for noise in ("swapped", "random"):
        source = Text(path, prompt="ask", completion="say", length=4, label_noise=0.4, noise=noise, seed=3)
        wrong = ~source.right(source.labels)
        assert (int(wrong.sum()), int(wrong[:5].sum())) == (6, 0)
        assert torch.equal(source.truth, clean.labels)
        assert torch.equal(source.labels[~source.mask], clean.labels[~clean.mask])
        assert torch.equal(source.inputs, clean.inputs)
    with pytest.raises(UsageError, match="noise 'symmetric' is none of swapped, random"):
        Text(path, label_noise=0.1, noise="symmetric", completion="say")


def test_noise_by_hand() -> None:
    labels = torch.tensor([[1, 2, 3, 0], [4, 5, 0, 0]])
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]]).bool()
    both = swapped(labels, mask, 2, torch.Generator().manual_seed(0))
    assert both.tolist() == [[4, 5, 4, 0], [1, 2, 0, 0]]
    one = random_tokens(labels, mask, 6, 2, torch.Generator().manual_seed(0))
    assert torch.equal(one == labels, ~mask)
    assert int(one.max()) < 6


def test_pieces_make_a_text_column_the_tokenizers_ids(tmp_path: Path) -> None:
    path = table(tmp_path, a=["abc", "d"] * 2, b=["ef", "g"] * 2, label=["x", "y"] * 2)
    source = Table(path, text=Pieces(column="a+b", length=5))
    assert source.kind == "tokens"
    assert source.vocabulary == Bytes.size
    inputs, mask = source.read(torch.tensor([0, 1]))
    assert inputs.tolist() == [[97, 98, 99, EOS, 101], [100, EOS, 103, PAD, PAD]]
    assert mask.sum(1).tolist() == [5, 3]
    assert isinstance(source.tokenizer, Bytes)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"stride": 9, "length": 8}, UsageError, "stride must be at most length=8, got 9"),
        ({"prompt": "text"}, UsageError, "a prompt needs the column that answers it"),
        ({"completion": "text", "chat": True}, UsageError, "chat=True needs the column that asks"),
        ({"completion": "text", "prompt": "none"}, DataError, "has no column 'none'"),
        ({"length": 0}, UsageError, "Text: length must be a whole number of at least 1"),
        ({"group": "n"}, None, ""),
    ],
)
def test_arguments_that_do_not_fit(tmp_path: Path, arguments: dict[str, object], error: type | None, words: str) -> None:
    path = table(tmp_path, text=["abc", "def"], n=[1, 2])
    if error is None:
        assert Text(path, **arguments).group_names == ("1", "2")
        return
    with pytest.raises(error, match=words):
        Text(path, **arguments)


def test_files_that_hold_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"ab\xff")
    with pytest.raises(DataError, match=r"is not written in UTF-8 \(byte 2\)"):
        Text(str(tmp_path / "a.txt"))
    with pytest.raises(UsageError, match="has no columns"):
        Text(str(tmp_path / "a.txt"), completion="b")
    with pytest.raises(DataError, match="there is no file"):
        Text(str(tmp_path / "b.txt"))
