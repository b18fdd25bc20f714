"""Writes and reads the shards of a stored teacher: safetensors files, each written whole and known by its digest."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from limbeck.core.batch import Batch
from limbeck.core.errors import RunError, UsageError
from limbeck.core.files import write_whole
from limbeck.core.outputs import Outputs
from limbeck.functional.divergences import full_precision
from limbeck.functional.topk import fewer, top_k
from limbeck.teachers.manifest import Layout, Manifest, Shard
from limbeck.teachers.marks import marks

SHARD_BYTES = 64 * 2**20
"""What a shard comes to at the most, where a single sample is not larger."""
MARK = "mark"
Columns = dict[str, Tensor]


def spread(rows: int) -> Tensor:
    """At most 1,024 of the identities 0 to rows - 1, evenly apart: by what a data set is known before all of it is read."""
    return torch.linspace(0, rows - 1, min(rows, 1024), dtype=torch.float64).long()


def rows_per_shard(layout: Layout) -> int:
    """How many samples go into a shard."""
    return max(1, SHARD_BYTES // layout.row_bytes)


def packed(outputs: Outputs, layout: Layout) -> Columns:
    """What is kept of the teacher's answers, in the precision of the store.

    Raises:
        UsageError: The teacher's answers are not those that the store was laid out for.
        RunError: They are NaN or infinite, or too large for the precision.
    """
    kind = torch.float16 if layout.precision == "float16" else torch.float32
    if layout.k is None:
        columns = {"logits": full_precision(outputs.logits).to(kind)}
    else:
        if outputs.sparse is not None and outputs.sparse.T != layout.T:
            raise UsageError(f"cache: the teacher answers at T = {outputs.sparse.T:g}; store it at that temperature.")
        sparse = outputs.sparse or top_k(outputs.logits, layout.k, layout.T)
        sparse = fewer(sparse, layout.k)
        columns = {"ids": sparse.ids.to(torch.int32), "log_probs": sparse.log_probs.to(kind), "tail": sparse.tail.to(kind)}
    logits = columns.get("logits")
    if logits is not None and not torch.isfinite(logits).all():
        raise RunError("cache: the teacher's logits are NaN, infinite or too large for float16; look at it, or take float32.")
    if any(bool(part.isnan().any()) for part in columns.values()):
        raise RunError("cache: the teacher answers with NaN; look at the teacher.")
    return {name: part.cpu().contiguous() for name, part in columns.items()}


def file_name(number: int) -> str:
    """The name of a shard."""
    return f"shard-{number:05d}.safetensors"


def sha256_of(path: Path) -> str:
    """The digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def build(
    folder: Path,
    manifest: Manifest,
    read: Callable[[Tensor], Batch],
    teacher: Callable[[Batch], Outputs],
    *,
    batch_size: int,
    resume: bool = False,
    on_batch: Callable[[int], None] = lambda rows: None,
) -> Manifest:
    """Ask the teacher about every sample and write its answers. Killed at any moment and resumed, it ends in the same bytes.

    Every question has `batch_size` samples, the last ones of a shard filled up with a sample that is asked about again: what a
    kernel rounds may depend on how many rows it is given, and training asks about so many.

    Args:
        folder: Where to; it is there already.
        manifest: Of the whole store, without shards.
        read: The untransformed samples of these identities.
        teacher: What answers.
        batch_size: Samples per question, >= 1.
        resume: Go on with the shards that are there.
        on_batch: Told how many samples were answered.

    Raises:
        UsageError: What is there was begun otherwise.
        RunError: A shard is damaged, the disk is full, or the teacher answers with NaN.
    """
    manifest, size = begin(folder, manifest, resume=resume), manifest.rows_per_shard
    on_batch(min(len(manifest.shards) * size, manifest.rows))
    while not manifest.finished:
        first = len(manifest.shards) * size
        parts = []
        for rows in torch.split(torch.arange(first, min(first + size, manifest.rows)), batch_size):
            parts.append(_answered(rows, read, teacher, manifest.layout, batch_size))
            on_batch(len(rows))
        manifest = add(folder, manifest, {name: torch.cat([part[name] for part in parts]) for name in parts[0]})
    return manifest


def _answered(
    rows: Tensor, read: Callable[[Tensor], Batch], teacher: Callable[[Batch], Outputs], layout: Layout, batch_size: int
) -> Columns:
    """The columns of these samples, with their marks."""
    batch = read(torch.cat([rows, rows[:1].expand(batch_size - len(rows))]))
    with torch.no_grad():
        answer = teacher(batch).take(slice(0, len(rows)))
    own = marks(batch)[: len(rows)].cpu()
    return {**packed(answer, layout), MARK: own}


def begin(folder: Path, manifest: Manifest, *, resume: bool) -> Manifest:
    """The store as it stands, ready for its next shard; shards of an earlier start are trusted by their digests.

    Raises:
        UsageError: What is there was begun with another teacher, other data or another layout.
        RunError: A shard that was written is damaged.
    """
    if not resume or not (folder / "manifest.json").exists():
        manifest.write(folder)
        return manifest
    found = Manifest.read(folder)
    difference = found.differs(manifest)
    if difference is not None:
        raise UsageError(f"--resume: {folder} was begun otherwise, {difference} differs; take all as it was, or another folder.")
    for shard in found.shards:
        check_shard(folder, shard)
    return found


def add(folder: Path, manifest: Manifest, columns: Columns) -> Manifest:
    """Write the next shard, then say in the manifest that it is there."""
    content = save(columns)
    shard = Shard(file_name(len(manifest.shards)), hashlib.sha256(content).hexdigest())
    write_whole(folder / shard.file, content)
    grown = manifest.with_shard(shard)
    grown.write(folder)
    return grown


def check_shard(folder: Path, shard: Shard) -> None:
    """See that a shard has the bytes that were written.

    Raises:
        RunError: It is missing, or a byte is another one.
    """
    path = folder / shard.file
    if not path.is_file():
        raise RunError(f"{path} is missing, though the manifest names it; store the teacher anew.")
    if sha256_of(path) != shard.sha256:
        raise RunError(f"{path} is damaged: its bytes are not those that were written; store the teacher anew.")


@final
class Shards:
    """The samples of a finished store, mapped into memory and read when they are asked for; each shard is checked when opened.

    Args:
        folder: The store.
        manifest: What it says of itself.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder, self.manifest = folder, manifest
        self.opened: dict[int, Columns] = {}

    def shard(self, number: int) -> Columns:
        """The columns of a shard.

        Raises:
            RunError: It is damaged.
        """
        if number not in self.opened:
            shard = self.manifest.shards[number]
            check_shard(self.folder, shard)
            try:
                self.opened[number] = load_file(self.folder / shard.file)
            except SafetensorError as error:
                raise RunError(f"{self.folder / shard.file} is no safetensors file; store the teacher anew.") from error
        return self.opened[number]

    def rows(self, index: Tensor) -> Columns:
        """The stored columns of these samples, in this order; int64 [B] of 0 to rows - 1."""
        numbers = index // self.manifest.rows_per_shard
        found: Columns = {}
        for number in sorted(set(numbers.tolist())):
            places = (numbers == number).nonzero().squeeze(1)
            inside = index[places] - number * self.manifest.rows_per_shard
            for name, column in self.shard(number).items():
                if name not in found:
                    found[name] = torch.empty(len(index), *column.shape[1:], dtype=column.dtype)
                found[name][places] = column[inside]
        return found


def laid_out(answer: Outputs, k: int | None, T: float, layout: Layout) -> Layout:
    """The layout for a teacher that answers so: as many classes and tokens as it names.

    Raises:
        UsageError: All logits are to be kept of a teacher that knows its most probable classes only, or too many of them.
    """
    shape = answer.logits.shape if answer.sparse is None else answer.sparse.ids.shape
    if k is None and answer.sparse is not None:
        raise UsageError("cache: the teacher offers its most probable classes only; say how many are kept by --top-k.")
    most = answer.classes if answer.sparse is None else answer.sparse.k
    if k is not None and most is not None and k > most:
        raise UsageError(f"cache: --top-k {k} is more than the {most} classes that the teacher names.")
    return replace(layout, classes=answer.classes, length=shape[1] if len(shape) == 3 else None, k=k, T=T)
