"""What a teacher's store says of itself: manifest.json, read and checked. Schema: docs/guide/teachers.md."""

import json
import math
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from limbeck.core.errors import RunError, UsageError
from limbeck.core.files import write_whole

SCHEMA = 1
MANIFEST = "manifest.json"
Precision = Literal["float16", "float32"]
WIDTH: dict[Precision, int] = {"float16": 2, "float32": 4}
ID_BYTES, MARK_BYTES = 4, 8


@dataclass(frozen=True)
class Layout:
    """What is kept of every sample.

    Args:
        classes: How many classes the teacher answers for; None where nobody knows.
        length: Tokens of a sample; None where it has one answer.
        k: How many classes are kept one by one; None keeps all logits.
        T: The temperature of the probabilities that are kept; 1 for logits.
        precision: Of logits and log-probabilities.
    """

    classes: int | None
    length: int | None = None
    k: int | None = None
    T: float = 1.0
    precision: Precision = "float32"

    @property
    def row_bytes(self) -> int:
        """Bytes of one sample: k ids, k log-probabilities and a tail per answer, or the logits; and the sample's mark."""
        width = WIDTH[self.precision]
        one = (self.classes or 0) * width if self.k is None else self.k * (ID_BYTES + width) + width
        return one * (self.length or 1) + MARK_BYTES

    def __str__(self) -> str:
        what = f"all {self.classes} logits" if self.k is None else f"the {self.k} most probable classes and the others' mass"
        heat = "" if self.k is None or self.T == 1 else f" at T = {self.T:g}"
        return f"{what}{heat} in {self.precision}" + (f", {self.length} tokens a sample" if self.length else "")


@dataclass(frozen=True)
class Shard:
    """One file of the store.

    Args:
        file: Its name.
        sha256: Of its bytes.
    """

    file: str
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """All that must be known to trust a store.

    Args:
        layout: What is kept of every sample.
        rows: How many samples: the identities 0 to rows - 1.
        rows_per_shard: Samples in every shard but the last.
        teacher: `name` as typed, `weights` its fingerprint; `parameters` and `flops` where they are known.
        data: `name` as typed, `marks` the digest of all samples' marks.
        held_out: Digest of the test rows on which the teacher was not trained; empty where nobody knows.
        shards: Those that are written.
        schema: Version of this description.
    """

    layout: Layout
    rows: int
    rows_per_shard: int
    teacher: dict[str, Any]
    data: dict[str, Any]
    held_out: str = ""
    shards: tuple[Shard, ...] = field(default=())
    schema: int = SCHEMA

    @property
    def wanted(self) -> int:
        """How many shards a finished store has."""
        return math.ceil(self.rows / self.rows_per_shard)

    @property
    def finished(self) -> bool:
        """Whether all shards are there."""
        return len(self.shards) == self.wanted

    @property
    def size_bytes(self) -> int:
        """Bytes of all samples, without the few hundred that each file's head takes."""
        return self.rows * self.layout.row_bytes

    def differs(self, other: "Manifest") -> str | None:
        """In what two stores differ, in words; None where one goes on as the other."""
        words = {"layout": "what is kept", "teacher": "the teacher", "data": "the data", "held_out": "the test rows"}
        for part in fields(self):
            if part.name != "shards" and getattr(self, part.name) != getattr(other, part.name):
                return words.get(part.name, part.name)
        return None

    def write(self, folder: Path) -> None:
        """Write manifest.json whole or not at all."""
        write_whole(folder / MANIFEST, (json.dumps(asdict(self), indent=1, allow_nan=False) + "\n").encode())

    def with_shard(self, shard: Shard) -> "Manifest":
        """The store with one more shard."""
        return replace(self, shards=(*self.shards, shard))

    @staticmethod
    def read(folder: Path) -> "Manifest":
        """The manifest of a store, finished or not.

        Raises:
            UsageError: There is no store in the folder.
            RunError: The manifest is damaged or of another version.
        """
        path = folder / MANIFEST
        if not path.is_file():
            raise UsageError(f"{folder} holds no stored teacher, it has no {MANIFEST}; make one with `limbeck cache`.")
        try:
            found = json.loads(path.read_text("utf-8"))
            if found.get("schema") != SCHEMA:
                raise RunError(
                    f"{path} is of version {found.get('schema')!r}, this program reads {SCHEMA}; store the teacher anew."
                )
            shards = tuple(Shard(**one) for one in found.pop("shards"))
            manifest = Manifest(layout=Layout(**found.pop("layout")), shards=shards, **found)
            manifest.check()
        except RunError:
            raise
        except Exception as error:
            raise RunError(f"{path} is damaged ({type(error).__name__}); store the teacher anew.") from error
        return manifest

    def check(self) -> None:
        """See that numbers are numbers and that shards lie in the store's own folder.

        Raises:
            ValueError: They are not.
        """
        layout = self.layout
        numbers = [self.rows, self.rows_per_shard, *(n for n in (layout.classes, layout.length, layout.k) if n is not None)]
        sound = all(isinstance(number, int) and number > 0 for number in numbers) and layout.precision in WIDTH
        apart = [shard.file for shard in self.shards if Path(shard.file).name != shard.file]
        if not sound or apart or not isinstance(layout.T, int | float) or layout.T <= 0 or len(self.shards) > self.wanted:
            raise ValueError("unsound")
        if layout.k is None and layout.classes is None:
            raise ValueError("unsound")
