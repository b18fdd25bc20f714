"""Prompts with a preferred and a rejected reply: for language models that are to learn what people like."""

import json
from collections.abc import Iterator
from itertools import combinations
from typing import final

import pyarrow as pa
import torch

from limbeck.core.checks import whole
from limbeck.core.errors import DataError, UsageError
from limbeck.data.columns import column, domains, marked, read_table
from limbeck.data.passages import Passage, answered, padded
from limbeck.data.source import InMemory, expression
from limbeck.data.table import fixed_test_rows
from limbeck.data.tokens import Bytes, Tokens, Turn
from limbeck.data.validity import check

REPLY = "reply"
"""The column of a batch that says which reply to its prompt a row is: a place in `REPLIES`."""
REPLIES = ("chosen", "rejected", "own")
ROLES = {"human": "user", "gpt": "assistant", "bot": "assistant"}
"""What other names of speakers stand for."""
USUAL = {"prompt": "prompt", "chosen": "chosen", "rejected": "rejected", "length": 512, "chat": False}


@final
class Preferences(InMemory):
    """Every reply to a prompt is a row of its own: its tokens count, those of the prompt do not.

    The replies to prompt i of n are the rows R i to R i + R - 1, R of them in the order chosen, rejected, own. Which one a row is
    stands in the batch's column "reply" (0, 1, 2), for terms such as `OnReplies`. Splits are cut by prompt: all replies to a
    training prompt are training rows; query, validation and test hold the chosen replies only.

    A prompt is a text, or a conversation: a list of turns, or such a list as JSON, {"role": ..., "content": ...} or {"from": ...,
    "value": ...}. A reply is a text, or a conversation whose last turn it is. The columns `split` and `query` mean what they do
    in `Text`.

    Args:
        path: A .parquet, .csv, .tsv or .jsonl table.
        prompt: The column of prompts.
        chosen: The column of preferred replies.
        rejected: The column of the others; None leaves them out.
        own: A column of replies by the student as it begins, such as `write_replies` adds; None leaves them out.
        tokenizer: `Tokenizer("name-or-path")`, which a pretrained model needs; bytes where none is named.
        length: Tokens that a row's loss is of, at least 1; longer replies are cut.
        prompt_length: Tokens of a prompt at most; longer ones lose their beginning. None: they are kept whole.
        chat: Whether the tokenizer's chat template is used.
        group: A column of domains; splits keep their shares, and a mixture draws by them.

    Raises:
        UsageError: Arguments do not fit together.
        DataError: A file or column is missing, or a cell is no prompt or reply, or a prompt leaves no room for its reply.
    """

    def __init__(
        self,
        path: str,
        prompt: str = "prompt",
        chosen: str = "chosen",
        rejected: str | None = "rejected",
        own: str | None = None,
        *,
        tokenizer: Tokens | None = None,
        length: int = 512,
        prompt_length: int | None = None,
        chat: bool = False,
        group: str | None = None,
    ) -> None:
        said: dict[str, object] = {"prompt": prompt, "chosen": chosen, "rejected": rejected, "own": own, "tokenizer": tokenizer}
        said |= {"length": length, "prompt_length": prompt_length, "chat": chat, "group": group}
        named = {key: value for key, value in said.items() if value != USUAL.get(key)}
        name = expression("Preferences", path, label_noise=0.0, noise="symmetric", seed=0, **named)
        whole(length, "Preferences: length")
        if prompt_length is not None and whole(prompt_length, "Preferences: prompt_length") >= length:
            raise UsageError(f"Preferences: prompt_length={prompt_length} leaves no room for replies in {length} tokens.")
        _check_apart({"prompt": prompt, "chosen": chosen, "rejected": rejected, "own": own}, name)
        tokens = Bytes() if tokenizer is None else tokenizer
        table = read_table(path, name)
        columns = [column(table, key, path, name).to_pylist() for key in (prompt, chosen, rejected, own) if key is not None]
        passages = list(_passages(columns, tokens, chat=chat, longest=prompt_length, who=name))
        rows = padded(passages, length, tokens.pad, name)
        ids, counted = torch.tensor([row.ids for row in rows]), torch.tensor([row.counted for row in rows])
        super().__init__(ids[:, :-1], ids[:, 1:].clone(), vocabulary=tokens.size, mask=counted[:, 1:], name=name)
        self.path, self.tokenizer = path, tokens
        same = 0 if rejected is None else sum(replies[1] == replies[2] for replies in zip(*columns, strict=True))
        if same:
            self.doubts = (
                f"For {same} of {table.num_rows} prompts '{chosen}' and '{rejected}' are the same: nothing is preferred there.",
            )
        self._place(table, [place for place, key in enumerate((chosen, rejected, own)) if key is not None], group)
        check(self)

    def _place(self, table: pa.Table, kinds: list[int], group: str | None) -> None:
        """Note which reply to which prompt every row is, the fixed parts, and the domain of each."""
        first, count = torch.arange(table.num_rows) * len(kinds), len(kinds)
        self.follows = first.repeat_interleave(count)
        self.meta = {REPLY: torch.tensor(kinds).repeat(table.num_rows)}
        tested = fixed_test_rows(table, self.path, self.name)
        self.test_rows = None if tested is None else first[tested]
        if "query" in table.column_names:
            asked = column(table, "query", self.path, self.name)
            self.query_rows = first[marked(asked, f"{self.name}: column 'query'")]
        if group is not None:
            found, self.group_names = domains([str(value) for value in column(table, group, self.path, self.name).to_pylist()])
            self.groups = found.repeat_interleave(count)


def _check_apart(columns: dict[str, str | None], who: str) -> None:
    """See that no column stands for two things.

    Raises:
        UsageError: One does.
    """
    for first, second in combinations(columns, 2):
        if columns[first] is not None and columns[first] == columns[second]:
            raise UsageError(f"{who}: {first} and {second} are both the column '{columns[first]}'; name two different ones.")


def _passages(columns: list[list[object]], tokens: Tokens, *, chat: bool, longest: int | None, who: str) -> Iterator[Passage]:
    """The replies to each prompt, one after the other, with the prompt before each."""
    for row, (asked, *replies) in enumerate(zip(*columns, strict=True)):
        place = f"{who}: row {row}"
        turns = turns_of(asked, place) or [{"role": "user", "content": str(asked)}]
        for reply in replies:
            said = turns_of(reply, place)
            text = said[-1]["content"] if said else str(reply)
            yield answered(tokens, turns, text, (False, False, ""), chat=chat, who=place, longest=longest)


def turns_of(cell: object, who: str) -> list[Turn] | None:
    """The turns of a conversation; None where the cell is a plain text.

    Raises:
        DataError: It is neither.
    """
    found = cell
    if isinstance(cell, str):
        if not cell.lstrip().startswith("[{"):
            return None
        try:
            found = json.loads(cell)
        except json.JSONDecodeError:
            return None
    turns = [_turn(part) for part in found] if isinstance(found, list) else []
    kept = [turn for turn in turns if turn is not None]
    if not kept or len(kept) < len(turns):
        raise DataError(
            f"{who} holds neither a text nor a conversation; give a list of turns with role and content (or from and value)."
        )
    return kept


def _turn(part: object) -> Turn | None:
    if not isinstance(part, dict):
        return None
    role, content = part.get("role", part.get("from")), part.get("content", part.get("value"))
    return {"role": ROLES.get(role, role), "content": content} if isinstance(role, str) and isinstance(content, str) else None
