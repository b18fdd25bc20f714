"""Texts as token ids of which some count in the loss, and rows of equal length made of them. Knows nothing of files."""

from collections.abc import Sequence
from dataclasses import dataclass

from limbeck.core.errors import DataError
from limbeck.data.tokens import Tokens, Turn


@dataclass(frozen=True)
class Passage:
    """A text as token ids.

    Args:
        ids: The ids.
        counted: Which of them count in the loss.
        place: Whether it belongs to the test split, whether to the query set, and its domain: only passages of one place share
            a row.
    """

    ids: list[int]
    counted: list[bool]
    place: tuple[bool, bool, str]


def answered(
    tokens: Tokens,
    turns: Sequence[Turn],
    completion: str,
    place: tuple[bool, bool, str],
    *,
    chat: bool,
    who: str,
    longest: int | None = None,
) -> Passage:
    """A prompt that does not count and a completion that does.

    Without the tokenizer's template a lone question of a user is written as it is; a conversation has the speaker before each
    turn, and "assistant: " before the completion.

    Args:
        tokens: The tokenizer.
        turns: What was said before, the last by the user.
        completion: The answer.
        place: Of the passage.
        chat: Whether the tokenizer's chat template is used.
        who: Names the row in messages.
        longest: Tokens of the prompt at most; a longer one loses its beginning. None: it is kept whole.

    Raises:
        DataError: The chat template writes a question differently when its answer follows.
    """
    if chat:
        before = tokens.chat(list(turns), answer=True)
        both = tokens.chat([*turns, {"role": "assistant", "content": completion}])
        if both[: len(before)] != before:
            raise DataError(
                f"{who}: the chat template writes the question differently when an answer follows, so that prompt and answer "
                "cannot be told apart; leave out chat=True."
            )
        after = both[len(before) :]
    else:
        before, after = tokens.encode(_written(turns)), [*tokens.encode(completion), tokens.eos]
    before = before if longest is None else before[max(0, len(before) - longest) :]
    return Passage([*before, *after], [False] * len(before) + [True] * len(after), place)


def _written(turns: Sequence[Turn]) -> str:
    if [turn["role"] for turn in turns] == ["user"]:
        return turns[0]["content"]
    return "".join(f"{turn['role']}: {turn['content']}\n" for turn in turns) + "assistant: "


def packed(passages: list[Passage], length: int, stride: int, pad: int) -> list[Passage]:
    """Rows of length + 1 ids, cut from the passages of each place one after the other; those where nothing counts fall away."""
    rows = []
    for place in dict.fromkeys(passage.place for passage in passages):
        own = [passage for passage in passages if passage.place == place]
        ids = [token for passage in own for token in passage.ids]
        counted = [flag for passage in own for flag in passage.counted]
        for start in range(0, max(len(ids) - 1 - (length - stride), 1), stride):
            context = length - stride if start else 0
            end = start + length + 1
            flags = [False] * (context + 1) + counted[start + context + 1 : end]
            if any(flags):
                rows.append(_row(ids[start:end], flags, place, length, pad))
    return rows


def padded(passages: list[Passage], length: int, pad: int, who: str) -> list[Passage]:
    """A row of length + 1 ids for each passage.

    Raises:
        DataError: In some nothing that counts is left.
    """
    long = [row for row, passage in enumerate(passages) if not any(passage.counted[1 : length + 1])]
    if long:
        needed = max(passages[row].counted.index(True) if any(passages[row].counted) else 0 for row in long)
        raise DataError(
            f"{who}: in {len(long)} rows, the first row {long[0]}, nothing of the completion is left in {length} tokens (prompts "
            f"have up to {needed}); take a larger length, or leave these rows out."
        )
    return [_row(own.ids[: length + 1], own.counted[: length + 1], own.place, length, pad) for own in passages]


def _row(ids: list[int], counted: list[bool], place: tuple[bool, bool, str], length: int, pad: int) -> Passage:
    lacking = length + 1 - len(ids)
    return Passage([*ids, *[pad] * lacking], [*counted, *[False] * lacking], place)
