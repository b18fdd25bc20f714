"""Writes a model's own replies to the prompts of preference data, once: what ADPA trains on."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import nn

from limbeck.align.taps import Tapped
from limbeck.core.checks import whole
from limbeck.core.errors import UsageError
from limbeck.data.columns import read_table
from limbeck.data.loader import Loader
from limbeck.data.preferences import Preferences
from limbeck.influence.restoring import evaluating
from limbeck.llm.completions import Completions, asked


def write_replies(
    model: nn.Module,
    data: Preferences,
    out: str | Path,
    *,
    column: str = "own",
    length: int = 256,
    temperature: float = 1.0,
    top_p: float = 1.0,
    batch_size: int = 32,
    seed: int = 0,
) -> None:
    """Copy a table of preferences with one more column: what the model replies to each prompt.

    What is drawn for a prompt depends on the seed and its row, not on the others. Prompts are cut as `data` cuts them.

    Args:
        model: Token ids [B, L] -> logits [B, L, V]; the student as its training is to begin.
        data: The preferences.
        out: The .parquet file to write.
        column: The new column's name, for `Preferences(out, own=...)`.
        length: Tokens of a reply at most, >= 1; a reply also ends where the rows of `data` do.
        temperature: Of the drawing, >= 0; 0 takes the most probable token.
        top_p: In (0, 1]: draw among the most probable tokens of this mass.
        batch_size: Prompts that are answered together, >= 1.
        seed: Decides what is drawn.

    Raises:
        UsageError: A value is out of its range, or the column is there already.

    Reference: Gao et al., 2025, arXiv:2502.17927, algorithm 1, the student's own responses.
    """
    table, completions = read_table(data.path, data.name), Completions("write_replies", length, temperature, top_p, 1)
    if column in table.column_names:
        raise UsageError(f"write_replies: {data.path} has a column '{column}' already; name another.")
    rows = torch.arange(0, len(data), len(data) // table.num_rows)
    size = min(whole(batch_size, "write_replies: batch_size"), len(rows))
    loader = Loader(data, rows, batch_size=size, seed=seed, labels=data.labels, shuffle=False, drop_last=False)
    answer, tokens, replies = asked(Tapped(model), model), data.tokenizer, []
    assert tokens is not None
    with evaluating(model):
        for batch in loader.epoch(0):
            wrote = completions.write(answer, batch, loader, 0)
            assert wrote.targets is not None
            assert wrote.mask is not None
            replies += [tokens.decode(ids[counted].tolist()) for ids, counted in zip(wrote.targets, wrote.mask, strict=True)]
    pq.write_table(table.append_column(column, pa.array(replies)), out)
