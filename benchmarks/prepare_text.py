"""Cuts a part of a text data set, so that two cores are enough: a table, or the start of a text; or makes a table of sums.

python benchmarks/prepare_text.py ../shared/data sst2 --rows 43000 --out runs/data/sst2.parquet
python benchmarks/prepare_text.py ../shared/data shakespeare --characters 150000 --out runs/data/shakespeare.txt
python benchmarks/prepare_text.py ../shared/data reviews --rows 300 --skew 2 --out runs/data/reviews.parquet
python benchmarks/prepare_text.py ../shared/data preferences --out runs/data/preferences.parquet
python benchmarks/prepare_text.py ../shared/data sums --rows 3000 --out runs/data/sums.parquet

Of SST-2 training rows are drawn at random (seed 0) among those of at least five words, all test rows are kept, and the 872
validation rows are marked as the trusted query set (`query` 1). Of Tiny Shakespeare the first characters are kept, up to the end
of a line. Of the reviews of five domains training rows are drawn at random (seed 0): `--rows` of the first domain in alphabetical
order, and of each further one the part that `--skew` divides by; 40 test rows of each are kept. Of the preferences, prompts
with a preferred and a rejected reply, the first `--rows` train and all others test. Sums are made, not read: five digits,
and their sum as the completion; no string of the 500 test rows is a training row.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ended import ended

FEWEST_WORDS = 5
"""Training rows of SST-2 are phrases cut from sentences; the shortest say nothing."""
TESTED = 40
"""Test reviews of each domain."""
DIGITS, SUMS_TESTED = 5, 500
"""Digits that are added up, and test rows of such."""


def sst2(folder: Path, rows: int) -> pa.Table:
    """Training rows, then the validation rows as the query set, then the test rows."""
    table = pq.read_table(folder / "sst2.parquet", columns=["text", "label", "split"])
    train, validation, test = (table.filter(pc.equal(table["split"], part)) for part in ("train", "validation", "test"))
    train = train.filter(pc.greater_equal(pc.list_value_length(pc.utf8_split_whitespace(train["text"])), FEWEST_WORDS))
    chosen = np.sort(np.random.default_rng(0).permutation(len(train))[:rows])
    parts = [train.take(chosen), validation, test]
    query = np.repeat([0, 1, 0], [len(part) for part in parts])
    split = np.repeat(["train", "train", "test"], [len(part) for part in parts])
    whole = pa.concat_tables([part.select(["text", "label"]) for part in parts])
    return whole.append_column("split", pa.array(split)).append_column("query", pa.array(query))


def reviews(folder: Path, rows: int, skew: float) -> pa.Table:
    """Training rows, fewer and fewer from domain to domain, and as many test rows of each."""
    table, parts, rng = pq.read_table(folder / "reviews_5domains.parquet"), [], np.random.default_rng(0)
    for place, domain in enumerate(sorted(set(table["domain"].to_pylist()))):
        for split, wanted in (("train", round(rows / skew**place)), ("test", TESTED)):
            own = table.filter(pc.and_(pc.equal(table["domain"], domain), pc.equal(table["split"], split)))
            parts.append(own.take(np.sort(rng.permutation(len(own))[:wanted])))
    return pa.concat_tables(parts).select(["text", "label", "domain", "split"])


def preferences(folder: Path, rows: int) -> pa.Table:
    """Training rows, then test rows, with a conversation for a prompt."""
    table = pq.read_table(folder / "preferences_300.parquet", columns=["prompt", "chosen", "rejected", "split"])
    train, test = (table.filter(pc.equal(table["split"], part)) for part in ("train", "test"))
    parts = [train.slice(0, rows), train.slice(rows), test]
    split = np.repeat(["train", "test"], [len(parts[0]), len(parts[1]) + len(parts[2])])
    return pa.concat_tables(parts).drop_columns("split").append_column("split", pa.array(split))


def sums(rows: int) -> pa.Table:
    """Strings of digits and their sum."""
    drawn = np.random.default_rng(0).permutation(10**DIGITS)[: rows + SUMS_TESTED]
    strings = [f"{number:0{DIGITS}d}" for number in drawn]
    split = ["train"] * (len(strings) - SUMS_TESTED) + ["test"] * SUMS_TESTED
    answers = [str(sum(map(int, one))) for one in strings]
    return pa.table({"prompt": [f"{one}>" for one in strings], "completion": answers, "split": split})


def told(table: pa.Table) -> str:
    """What else there is to say of a table."""
    if "query" in table.column_names:
        return f", {sum(table['query'].to_pylist())} of them the query set"
    return f" of {', '.join(sorted(set(table['domain'].to_pylist())))}" if "domain" in table.column_names else ""


def main() -> None:
    """Read the words, write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the folder of the data sets as they come")
    parser.add_argument("name", choices=["sst2", "shakespeare", "reviews", "preferences", "sums"], help="which of them")
    parser.add_argument("--rows", type=int, default=12000, help="training rows, of reviews those of the first domain")
    parser.add_argument("--skew", type=float, default=1.0, help="from domain to domain of reviews, rows are divided by this")
    parser.add_argument("--characters", type=int, default=150_000, help="characters of Tiny Shakespeare")
    parser.add_argument("--out", type=Path, required=True, help="the file to write: .parquet, or .txt")
    said = parser.parse_args()
    said.out.parent.mkdir(parents=True, exist_ok=True)
    tables = {
        "sst2": lambda: sst2(said.folder, said.rows),
        "reviews": lambda: reviews(said.folder, said.rows, said.skew),
        "preferences": lambda: preferences(said.folder, said.rows),
        "sums": lambda: sums(min(said.rows, 10**DIGITS - SUMS_TESTED)),
    }
    if said.name in tables:
        table = tables[said.name]()
        pq.write_table(table, said.out)
        print(f"{said.out}: {table.num_rows} rows{told(table)}")
        return
    text = (said.folder / "tinyshakespeare.txt").read_text("utf-8")[: said.characters]
    text = text[: text.rindex("\n") + 1]
    said.out.write_text(text, "utf-8")
    print(f"{said.out}: {len(text)} characters")


if __name__ == "__main__":
    sys.exit(ended(main))
