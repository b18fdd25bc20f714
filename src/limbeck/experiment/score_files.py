"""The files of a scoring. What is finished waits in a folder of parts, so that a killed scoring goes on to the same bytes.

`X.parquet` has a row for each training sample, `X.matrix.parquet` one for each query, `X.groups.parquet` one for each group;
`X.json` says what was asked for and found. Until all is done there is only `X.parts`, with one whole file for each finished part.
"""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from limbeck.core.errors import LimbeckError, RunError, UsageError
from limbeck.core.files import whole_file
from limbeck.experiment import folder as files
from limbeck.influence.matrix import Tile

BEGUN = "begun.json"
RETRAINED = "retrained"
"""The folder, among the parts, of trainings without some samples."""
MadeOf = Mapping[str, object]
"""All that the numbers depend on, and what is asked for, by the name that a message calls it."""


@dataclass(frozen=True)
class ScoreFiles:
    """Where a scoring writes.

    Args:
        out: The table of samples, a .parquet file.

    Raises:
        UsageError: It has another ending.
    """

    out: Path

    def __post_init__(self) -> None:
        if self.out.suffix != ".parquet":
            raise UsageError(f"score: --out must end in .parquet, got {self.out}.")

    def beside(self, ending: str) -> Path:
        """The file of the same name with another ending."""
        return self.out.with_name(self.out.stem + ending)

    @property
    def matrix(self) -> Path:
        """Every query against every sample."""
        return self.beside(".matrix.parquet")

    @property
    def groups(self) -> Path:
        """Sums over groups of samples."""
        return self.beside(".groups.parquet")

    @property
    def summary(self) -> Path:
        """What was asked for and found; written last."""
        return self.beside(".json")

    @property
    def parts(self) -> Path:
        """The folder of what is finished so far."""
        return self.beside(".parts")

    @property
    def finished(self) -> bool:
        """Whether all is written, and no part waits."""
        return self.summary.exists() and not (self.parts / BEGUN).exists()

    @contextmanager
    def opened(self, made_of: MadeOf, *, resume: bool, replace: bool) -> Iterator[None]:
        """The folder of parts, for this process alone.

        Args:
            made_of: What this scoring is.
            resume: Go on with one that is there.
            replace: Begin anew where one is there.

        Raises:
            UsageError: There is one already, or none to resume, or that of another run, solver or version.
            RunError: The folder cannot be made.
            LimbeckError: What the scoring itself raises.
        """
        if resume:
            self._check(made_of)
            if self.finished:
                yield
                return
        else:
            self._clear(replace=replace)
        try:
            self.parts.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"score: could not make the folder {self.parts}: {error.strerror or error}.") from error
        with files.held(self.parts, "scoring"):
            if not (self.parts / BEGUN).exists():
                files.write_json(self.parts / BEGUN, dict(made_of))
            try:
                yield
            except LimbeckError:  # what was refused before its first part is as if it had never been asked for
                if not any(self.parts.glob("*.parquet")):
                    shutil.rmtree(self.parts)
                raise

    def _check(self, made_of: MadeOf) -> None:
        """See that what is to be resumed is the same.

        Raises:
            UsageError: It is not, or there is nothing.
        """
        theirs = self._made_of()
        for key, ours in made_of.items():
            if theirs.get(key) != ours:
                was = "another run" if key == "run" else f"{key}={theirs.get(key)}, not {ours}"
                raise UsageError(
                    f"score: --resume: {self.out} was begun with {was}; ask for the same as then, or begin anew with --replace."
                )

    def _made_of(self) -> MadeOf:
        """What the scoring that is there was made of.

        Raises:
            UsageError: There is none, or it cannot be read.
        """
        begun = (self.parts / BEGUN).exists()
        if not begun and not self.finished:
            raise UsageError(f"score: --resume: there is no scoring of {self.out} to go on with; leave --resume out.")
        try:
            found = files.read_json(self.parts / BEGUN) if begun else files.read_json(self.summary)["made_of"]
        except (RunError, KeyError) as error:
            raise UsageError(
                f"score: --resume: what {self.out} was begun with cannot be read; begin anew with --replace."
            ) from error
        return found if isinstance(found, dict) else {}

    def _clear(self, *, replace: bool) -> None:
        """Remove the parts of an older scoring; its finished files stay until new ones take their places.

        Raises:
            UsageError: There is one and nobody said so, or the folder holds something else.
        """
        written = (self.parts / BEGUN, self.out, self.matrix, self.groups, self.summary)
        there = next((path for path in written if path.exists()), None)
        if there is not None and not replace:
            begun = there == self.parts / BEGUN
            how = "go on with it by --resume" if begun else "give another --out"
            raise UsageError(f"score: {self.parts if begun else there} is there already; {how}, or write over it with --replace.")
        if self.parts.exists():
            others = [path for path in self.parts.iterdir() if path.name != RETRAINED]
            if any(path.suffix not in (".parquet", ".json", ".partial") for path in others):
                raise UsageError(f"score: {self.parts} holds more than the parts of a scoring; give another --out.")
            with files.held(self.parts, "scoring"):
                shutil.rmtree(self.parts)

    def has(self, name: str) -> bool:
        """Whether a part is finished."""
        return self._part(name).exists()

    def keep(self, name: str, columns: Mapping[str, object]) -> None:
        """Write a finished part."""
        with whole_file(self._part(name)) as sink:
            pq.write_table(pa.table(dict(columns)), sink, compression="zstd", write_page_checksum=True)

    def part(self, name: str) -> pa.Table:
        """A finished part.

        Raises:
            RunError: It is damaged.
        """
        path = self._part(name)
        try:
            return pq.read_table(path, page_checksum_verification=True)
        except (OSError, pa.ArrowException) as error:
            raise RunError(
                f"score: the part {path} is damaged ({type(error).__name__}); delete it and go on with --resume."
            ) from error

    def tiles(self, count: int, index: Tensor) -> Iterator[Tile]:
        """The finished tiles in order, one at a time.

        Args:
            count: How many there are.
            index: The training samples' identities, int64 [N].
        """
        for number in range(count):
            table = self.part(tile_name(number))
            phi = table["phi"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
            queries, losses = (torch.tensor(table[name].to_pylist()) for name in ("query", "query_loss"))
            yield Tile(number, queries, losses, index, torch.tensor(phi).view(len(queries), -1))

    def join(self, count: int) -> None:
        """Write the matrix from its tiles, a row group each; no more than one is held."""
        with whole_file(self.matrix) as sink:
            first = self.part(tile_name(0))
            with pq.ParquetWriter(sink, first.schema, compression="zstd") as writer:
                writer.write_table(first)
                for number in range(1, count):
                    writer.write_table(self.part(tile_name(number)))

    def close(self, written: set[Path], summary: Mapping[str, object]) -> None:
        """Write the summary, and remove the parts and what an older scoring left that this one has not asked for."""
        for path in {self.matrix, self.groups} - written:
            path.unlink(missing_ok=True)
        files.write_json(self.summary, dict(summary))
        (self.parts / BEGUN).unlink()  # from here on nothing waits, even if the rest cannot be removed
        shutil.rmtree(self.parts, ignore_errors=True)

    def _part(self, name: str) -> Path:
        return self.parts / f"{name}.parquet"


def tile_name(number: int) -> str:
    """The part that a tile is kept in."""
    return f"tile-{number:06d}"


def columns_of(tile: Tile) -> dict[str, object]:
    """A tile as rows of the matrix."""
    flat = pa.array(tile.phi.cpu().contiguous().view(-1).numpy())
    return {
        "query": pa.array(tile.queries.cpu().numpy()),
        "query_loss": pa.array(tile.query_loss.cpu().numpy()),
        "phi": pa.FixedSizeListArray.from_arrays(flat, tile.phi.shape[1]),
    }
