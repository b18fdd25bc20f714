"""Cuts a part of a text data set, so that two cores are enough: SST-2 or reviews as a table, or the start of a text.

python benchmarks/prepare_text.py ../shared/data sst2 --rows 12000 --out runs/data/sst2.parquet
python benchmarks/prepare_text.py ../shared/data shakespeare --characters 150000 --out runs/data/shakespeare.txt
python benchmarks/prepare_text.py ../shared/data reviews --rows 300 --skew 2 --out runs/data/reviews.parquet

Of SST-2 training rows are drawn at random (seed 0) among those of at least five words, all test rows are kept, and the 872
validation rows are marked as the trusted query set (`query` 1). Of Tiny Shakespeare the first characters are kept, up to the end
of a line. Of the reviews of five domains training rows are drawn at random (seed 0): `--rows` of the first domain in alphabetical
order, and of each further one the part that `--skew` divides by; 40 test rows of each are kept.
"""

import argparse
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

FEWEST_WORDS = 5
"""Training rows of SST-2 are phrases cut from sentences; the shortest say nothing."""
TESTED = 40
"""Test reviews of each domain."""


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


def main() -> None:
    """Read the words, write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the folder of the data sets as they come")
    parser.add_argument("name", choices=["sst2", "shakespeare", "reviews"])
    parser.add_argument("--rows", type=int, default=12000, help="training rows of SST-2, or of the first domain of reviews")
    parser.add_argument("--skew", type=float, default=1.0, help="from domain to domain of reviews, rows are divided by this")
    parser.add_argument("--characters", type=int, default=150_000, help="characters of Tiny Shakespeare")
    parser.add_argument("--out", type=Path, required=True, help="the file to write: .parquet, or .txt")
    said = parser.parse_args()
    said.out.parent.mkdir(parents=True, exist_ok=True)
    if said.name == "sst2":
        table = sst2(said.folder, said.rows)
        pq.write_table(table, said.out)
        print(f"{said.out}: {table.num_rows} rows, {sum(table['query'].to_pylist())} of them the query set")
        return
    if said.name == "reviews":
        table = reviews(said.folder, said.rows, said.skew)
        pq.write_table(table, said.out)
        print(f"{said.out}: {table.num_rows} rows of {', '.join(sorted(set(table['domain'].to_pylist())))}")
        return
    text = (said.folder / "tinyshakespeare.txt").read_text("utf-8")[: said.characters]
    text = text[: text.rindex("\n") + 1]
    said.out.write_text(text, "utf-8")
    print(f"{said.out}: {len(text)} characters")


if __name__ == "__main__":
    main()
