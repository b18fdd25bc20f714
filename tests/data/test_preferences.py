import json
from pathlib import Path

import pytest
import torch

from limbeck.core.errors import DataError, UsageError
from limbeck.data.loader import Loader, whole
from limbeck.data.preferences import Preferences, turns_of
from limbeck.data.splits import split
from limbeck.data.tokens import Bytes


def table(path: Path, rows: list[dict[str, object]]) -> str:
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


def plain(count: int = 30, **more: object) -> list[dict[str, object]]:
    return [{"prompt": f"ask {i}", "chosen": f"good {i}", "rejected": f"bad {i}", **more} for i in range(count)]


def said(data: Preferences, row: int) -> tuple[str, str]:
    """The prompt and what counts of a row."""
    inputs, mask = data.read(torch.tensor([row]))
    assert mask is not None
    first = int(mask[0].nonzero()[0])
    return Bytes().decode(inputs[0, : first + 1].tolist()), Bytes().decode(data.labels[row][mask[0]].tolist())


def test_every_reply_is_a_row_that_says_which_it_is(tmp_path: Path) -> None:
    data = Preferences(table(tmp_path / "p.jsonl", plain(3, mine="own words")), own="mine", length=32)
    assert len(data) == 9
    assert [said(data, row) for row in (3, 4, 5)] == [("ask 1", "good 1"), ("ask 1", "bad 1"), ("ask 1", "own words")]
    assert whole(data, torch.tensor([3, 4, 5]), data.labels).meta["reply"].tolist() == [0, 1, 2]
    alone = Preferences(table(tmp_path / "q.jsonl", plain(3, mine="own words")), rejected=None, own="mine", length=32)
    assert alone.meta["reply"].tolist() == [0, 2] * 3
    assert "rejected=None" in alone.name
    assert "own='mine'" in alone.name


def test_a_prompt_is_in_one_part_and_held_out_parts_have_preferred_replies_only(tmp_path: Path) -> None:
    data = Preferences(table(tmp_path / "p.jsonl", plain()), length=32)
    parts = split(data, seed=0, query=4, validation=0.2, test=0.3)
    assert parts.counts == {"train": 2 * (30 - 9 - 4 - 4), "query": 4, "validation": 4, "test": 9}
    for held in (parts.query, parts.validation, parts.test):
        assert (held % 2 == 0).all()
        assert not torch.isin(held + 1, parts.train).any()
    assert torch.equal(parts.train[0::2] + 1, parts.train[1::2])
    loader = Loader(data, parts.train, batch_size=4, seed=0, labels=data.labels)
    assert all((batch.meta["reply"] == batch.index % 2).all() for batch in loader.epoch(0))


def test_fixed_parts_are_of_prompts(tmp_path: Path) -> None:
    rows = [{**row, "split": "test" if i < 5 else "train", "query": int(5 <= i < 8)} for i, row in enumerate(plain())]
    parts = split(Preferences(table(tmp_path / "p.jsonl", rows), length=32), seed=0, validation=0.2)
    assert parts.test.tolist() == [0, 2, 4, 6, 8]
    assert parts.query.tolist() == [10, 12, 14]


def test_conversations_in_every_form(tmp_path: Path) -> None:
    turns = [{"from": "system", "value": "Be brief."}, {"from": "human", "value": "Hi"}]
    other = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    rows = [
        {"prompt": json.dumps(turns), "chosen": "yes", "rejected": "no"},
        {"prompt": json.dumps(other), "chosen": json.dumps([{"role": "assistant", "content": "yes"}]), "rejected": "no"},
    ]
    data = Preferences(table(tmp_path / "p.jsonl", rows), length=64)
    assert said(data, 0) == said(data, 2) == ("system: Be brief.\nuser: Hi\nassistant: ", "yes")
    assert turns_of(other, "x") == turns_of(turns, "x") == other
    assert turns_of("[1] is a footnote", "x") is None


def test_a_long_prompt_loses_its_beginning(tmp_path: Path) -> None:
    rows = [{"prompt": "a" * 50 + "the end", "chosen": "good", "rejected": "bad"}] * 2
    path = table(tmp_path / "p.jsonl", rows)
    assert said(Preferences(path, length=16, prompt_length=7), 0) == ("the end", "good")
    with pytest.raises(DataError, match="nothing of the completion is left in 16 tokens"):
        Preferences(path, length=16)
    with pytest.raises(UsageError, match="leaves no room for replies in 16 tokens"):
        Preferences(path, length=16, prompt_length=16)


def test_what_is_no_conversation_is_refused(tmp_path: Path) -> None:
    rows = [{"prompt": '[{"who": "me"}]', "chosen": "good", "rejected": "bad"}]
    with pytest.raises(DataError, match="row 0 holds neither a text nor a conversation"):
        Preferences(table(tmp_path / "p.jsonl", rows), length=16)
    with pytest.raises(DataError, match="has no column 'reply'"):
        Preferences(table(tmp_path / "q.jsonl", plain(2)), chosen="reply", length=16)


@pytest.mark.parametrize("columns", [{"rejected": "chosen"}, {"own": "rejected"}, {"chosen": "prompt"}])
def test_a_column_that_stands_for_two_things_is_refused(columns: dict[str, str], tmp_path: Path) -> None:
    (first, second), *_ = columns.items()
    with pytest.raises(UsageError, match=f"{second} and {first} are both the column '{second}'|{first} and {second} are both"):
        Preferences(table(tmp_path / "p.jsonl", plain(2)), length=16, **columns)


def test_real_preferences(shared_data: Path) -> None:
    data = Preferences(str(shared_data / "preferences_300.parquet"), length=256, prompt_length=128)
    assert data.test_rows is not None
    assert (len(data), len(data.test_rows)) == (600, 30)
    assert data.meta["reply"].sum() == 300
    assert "first person perspective of a character named Angela" in data.show(0).text or "Angela" in data.show(0).text


def test_replies_that_are_the_same_are_told_of(tmp_path: Path) -> None:
    assert not Preferences(table(tmp_path / "p.jsonl", plain(3)), length=32).doubts
    rows = [*plain(2), {"prompt": "ask", "chosen": "one", "rejected": "one"}]
    (said,) = Preferences(table(tmp_path / "q.jsonl", rows), length=32).doubts
    assert said.startswith("For 1 of 3 prompts 'chosen' and 'rejected' are the same")
