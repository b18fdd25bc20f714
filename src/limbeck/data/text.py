"""Texts for language models: files and columns as rows of tokens, packed or padded, with prompts kept out of the loss."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch

from limbeck.core.checks import whole
from limbeck.core.errors import DataError, UsageError
from limbeck.data.columns import column, domains, marked, read_table, texts
from limbeck.data.files import existing
from limbeck.data.noise import noisy
from limbeck.data.passages import Passage, answered, packed, padded
from limbeck.data.source import InMemory, expression
from limbeck.data.table import fixed_test_rows
from limbeck.data.tokens import Bytes, Tokens
from limbeck.data.validity import check


@final
class Text(InMemory):
    """Rows of `length` tokens, each with the next one as its label: a language model's data.

    A file of plain text is one text; in a table every row is one. Every text is ended by the tokenizer's `eos`. Texts are
    *packed*: put one after the other and cut into rows, so that every token but the first is a label once. With prompt and
    completion, or `packing=False`, every text has a row of its own, cut or padded to `length`.

    In a table three columns are known: `split` (rows that say "test", or else "validation", are the fixed test split), `query`
    (0 and 1: the trusted query set), and the one that `group` names. Rows of tokens never mix texts of different parts.

    Args:
        path: A .txt file, or a .parquet, .csv, .tsv or .jsonl table.
        text: The column of texts in a table.
        tokenizer: `Tokenizer("name-or-path")`, which a pretrained model needs; bytes where none is named.
        length: Tokens that a row's loss is of, at least 1.
        stride: Tokens from the start of a packed row to that of the next, 1 to `length`; what a row repeats of the one before is
            context and does not count. None: `length`.
        packing: Whether texts share rows; None: yes, except with prompt and completion.
        prompt: A column that leads up to `completion` and does not count; two joined by a plus sign are read one after the other.
        completion: The column that counts, with the token that ends it.
        chat: Whether prompt and completion are put into the tokenizer's chat template, as a user's turn and the answer.
        group: A column of domains; splits keep their shares, and a mixture draws by them.
        test: A second file of the same kind: the fixed test split.
        label_noise: Share of the rows outside test split and query set whose labels are replaced, in [0, 1).
        noise: How: "swapped" (by the labels of another row) or "random" (by other tokens).
        seed: Seed of the noise.

    Raises:
        UsageError: Arguments do not fit together.
        DataError: A file or column is missing, or a prompt leaves no room for its completion.
    """

    def __init__(
        self,
        path: str,
        text: str = "text",
        *,
        tokenizer: Tokens | None = None,
        length: int = 128,
        stride: int | None = None,
        packing: bool | None = None,
        prompt: str | None = None,
        completion: str | None = None,
        chat: bool = False,
        group: str | None = None,
        test: str | None = None,
        label_noise: float = 0.0,
        noise: str = "swapped",
        seed: int = 0,
    ) -> None:
        tokens = Bytes() if tokenizer is None else tokenizer
        said: dict[str, object] = {
            "text": text,
            "tokenizer": tokens,
            "length": length,
            "stride": stride,
            "packing": packing,
            "prompt": prompt,
        }
        said |= {"completion": completion, "chat": chat, "group": group, "test": test}
        usual = {"text": "text", "length": 128, "chat": False, "tokenizer": None}
        named = {key: value for key, value in said.items() if value != usual.get(key)}
        unusual = "symmetric" if noise == "swapped" or not label_noise else noise  # what `expression` leaves out
        name = expression("Text", path, label_noise=label_noise, noise=unusual, seed=seed, **named)
        whole(length, "Text: length")
        step = length if stride is None else whole(stride, "Text: stride")
        if step > length:
            raise UsageError(f"Text: stride must be at most length={length}, got {step}; a longer one leaves tokens out.")
        if (prompt is not None or chat) and completion is None:
            raise UsageError("Text: a prompt needs the column that answers it; pass completion=...")
        if chat and prompt is None:
            raise UsageError("Text: chat=True needs the column that asks; pass prompt=..., or leave it out.")
        sharing = completion is None if packing is None else packing
        reading = _Reading(tokens, text, prompt, completion, chat, group, name)
        passages = list(reading.passages(path, test=False))
        if test is not None:
            passages += reading.passages(test, test=True)
        rows = packed(passages, length, step, tokens.pad) if sharing else padded(passages, length, tokens.pad, name)
        ids, counted = torch.tensor([row.ids for row in rows]), torch.tensor([row.counted for row in rows])
        super().__init__(ids[:, :-1], ids[:, 1:].clone(), vocabulary=tokens.size, mask=counted[:, 1:], name=name)
        self.tokenizer = tokens
        self._place([row.place for row in rows], grouped=group is not None)
        check(self)
        self.labels, self.truth = noisy(self, label_noise, noise, seed=seed)

    def _place(self, places: list[tuple[bool, bool, str]], *, grouped: bool) -> None:
        """Note which rows are test and query rows, and the domain of each."""
        test, query = ([row for row, place in enumerate(places) if place[which]] for which in (0, 1))
        self.test_rows = torch.tensor(test) if test else None
        self.query_rows = torch.tensor(query) if query else None
        if grouped:
            self.groups, self.group_names = domains([place[2] for place in places])


@dataclass(frozen=True)
class _Reading:
    """How a file becomes passages; the fields are arguments of `Text`."""

    tokens: Tokens
    text: str
    prompt: str | None
    completion: str | None
    chat: bool
    group: str | None
    who: str

    def passages(self, path: str, *, test: bool) -> Iterator[Passage]:
        """The texts of a file in its order."""
        if Path(path).suffix == ".txt":
            yield self._plain(self._content(path), (test, False, ""))
            return
        table = read_table(path, self.who)
        tested, asked = fixed_test_rows(table, path, self.who), None
        if "query" in table.column_names:
            asked = marked(column(table, "query", path, self.who), f"{self.who}: column 'query'")
        in_test, in_query = (set() if rows is None else set(rows.tolist()) for rows in (tested, asked))
        groups = [""] * table.num_rows if self.group is None else column(table, self.group, path, self.who).to_pylist()
        leading = [] if self.prompt is None else [name.strip() for name in self.prompt.split("+")]
        cells = texts(table, [*leading, self.completion or self.text], path, self.who)
        for row, (cell, domain) in enumerate(zip(cells, groups, strict=True)):
            place = (test or row in in_test, row in in_query and not test, str(domain))
            if self.prompt is None:
                yield self._plain(cell[-1], place)
            else:
                question = [{"role": "user", "content": "\n".join(part for part in cell[:-1] if part)}]
                yield answered(self.tokens, question, cell[-1], place, chat=self.chat, who=f"{self.who}: row {row}")

    def _content(self, path: str) -> str:
        """The text of a plain file.

        Raises:
            UsageError: Columns are asked for.
            DataError: It is no text in UTF-8.
        """
        if self.completion is not None or self.group is not None:
            raise UsageError(f"{self.who}: '{path}' has no columns; name a table for prompt, completion and group.")
        try:
            return existing(path, self.who).read_text("utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"{self.who}: '{path}' is not written in UTF-8 (byte {error.start}); convert it first.") from error

    def _plain(self, text: str, place: tuple[bool, bool, str]) -> Passage:
        ids = [*self.tokens.encode(text), self.tokens.eos]
        return Passage(ids, [True] * len(ids), place)
