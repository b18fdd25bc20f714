"""A recipe's teacher asked about every sample once, its answers stored: `limbeck cache`."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from limbeck.core.batch import Batch
from limbeck.core.errors import RunError, UsageError
from limbeck.core.files import write_whole
from limbeck.data.loader import whole
from limbeck.data.validity import check
from limbeck.experiment import folder as files
from limbeck.experiment.processes import engine_for
from limbeck.experiment.progress import Progress, Silent
from limbeck.experiment.ready import Ready, as_teacher, cost_of
from limbeck.experiment.recipe import Parts, Recipe
from limbeck.experiment.seeded import Seeded, seeded
from limbeck.experiment.unit import Worker
from limbeck.teachers.manifest import MANIFEST, Layout, Manifest, Precision
from limbeck.teachers.marks import digest_of, fingerprint, marks
from limbeck.teachers.store import build, laid_out, rows_per_shard, spread
from limbeck.teachers.stored import Stored

HEAD = "# The recipe whose teacher is stored here, with every setting written out.\n"
SPARE_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Wanted:
    """What is to be kept.

    Args:
        top_k: Classes that are kept one by one; None keeps all logits.
        T: The temperature of the probabilities that are kept.
        precision: Of logits and log-probabilities.
    """

    top_k: int | None = None
    T: float = 1.0
    precision: Precision = "float32"


def cache(recipe: Recipe, folder: Path, wanted: Wanted, *, resume: bool = False, progress: Progress | None = None) -> Manifest:
    """Train or read the recipe's teacher of its first seed, and store what it says of every sample, untransformed.

    Killed at any moment and resumed, it ends in the same bytes.

    Args:
        recipe: Names data and teacher.
        folder: Where to; must hold nothing unless `resume`.
        wanted: What is to be kept.
        resume: Go on where an earlier start was stopped.
        progress: Told of every step.

    Raises:
        UsageError: The recipe or the folder cannot be taken, or what is there was begun otherwise.
        RunError: The disk is too small, a shard is damaged, or the training failed.
    """
    progress = progress or Silent()
    parts, data = _made(recipe)
    manifest = _laid_out(recipe, parts, data, wanted)
    with _opened(folder, recipe, manifest, resume=resume):
        worker = Worker(recipe, parts, engine_for(recipe), folder / files.CHECKPOINTS, progress)
        progress.start(len(worker.teachers) + 1)
        model = _teacher(worker, data, folder)
        weights = model.state_dict()
        manifest = replace(
            manifest,
            teacher={**manifest.teacher, "weights": fingerprint(weights) if weights else ""},
            held_out=digest_of(data.splits.test) if worker.teachers else "",
        )
        progress.unit("storing", manifest.rows)

        def read(rows: Tensor) -> Batch:
            return whole(parts.data, rows, parts.data.labels).to(worker.engine.device)

        made = build(
            folder,
            manifest,
            read,
            as_teacher(model),
            batch_size=recipe.batch_size,
            resume=resume,
            on_batch=progress.advance,
        )
        files.tidy(folder)
    progress.done()
    return made


def plan(recipe: Recipe, wanted: Wanted) -> str:
    """What would be stored and how large it is; trains and writes nothing."""
    parts, data = _made(recipe)
    manifest = _laid_out(recipe, parts, data, wanted)
    worker = Worker(recipe, parts, engine_for(recipe), Path(), Silent())
    steps = len(worker.teachers) * worker.steps(data, teacher=True)
    return "\n".join(
        [
            f"data     {parts.data.name}: {manifest.rows:,} samples",
            f"teacher  {parts.teacher!r}: " + (f"is trained first, {steps:,} steps" if steps else "is there"),
            f"kept     {manifest.layout}: {manifest.layout.row_bytes:,} bytes a sample",
            f"size     {spoken_bytes(manifest.size_bytes)} in {manifest.wanted} shards",
        ]
    )


def spoken_bytes(size: int) -> str:
    """A size as people say it."""
    for unit, name in ((2**30, "GB"), (2**20, "MB"), (2**10, "kB")):
        if size >= unit:
            return f"{size / unit:.1f} {name}"
    return f"{size} bytes"


def _made(recipe: Recipe) -> tuple[Parts, Seeded]:
    """What the recipe names, its data read and cut for the first seed.

    Raises:
        UsageError: The teacher's answers are stored already, there is no teacher yet, or there are several processes.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError("cache: runs in one process; start it without a launcher.")
    torch.set_num_threads(recipe.threads)
    parts = recipe.build()
    if isinstance(parts.teacher, Ready) and isinstance(parts.teacher.teacher, Stored):
        raise UsageError(f"cache: the answers of {parts.teacher!r} are stored already; name a net or a served teacher.")
    if parts.forgets_teacher or parts.learns_beside:
        raise UsageError(f"cache: {recipe.step} has no teacher before the student is trained; take step: Student().")
    check(parts.data)
    return parts, seeded(recipe, parts, recipe.seed)


def _laid_out(recipe: Recipe, parts: Parts, data: Seeded, wanted: Wanted) -> Manifest:
    """The store to be, but for the teacher's weights; what it answers with is tried on two samples by a net as built."""
    source = parts.data
    model: nn.Module = parts.teacher.build(data.spec)
    few = whole(source, torch.arange(min(2, len(source))), source.labels)
    with torch.no_grad(), torch.random.fork_rng():
        layout = laid_out(as_teacher(model)(few), wanted.top_k, wanted.T, Layout(None, precision=wanted.precision))
    some = whole(source, spread(len(source)), source.labels)
    return Manifest(
        layout,
        len(source),
        rows_per_shard(layout),
        {"name": repr(parts.teacher), "weights": "", **cost_of(model, few)},
        {"name": source.name, "marks": digest_of(marks(some))},
    )


def _teacher(worker: Worker, data: Seeded, folder: Path) -> nn.Module:
    """The teacher, trained or read; its weights lie in the folder from then on, and whoever goes on takes them from there.

    Raises:
        RunError: They are damaged.
    """
    path = folder / files.TEACHER
    if path.is_file():
        model = worker.parts.teacher.build(data.spec)
        try:
            model.load_state_dict(load_file(path))
        except Exception as error:
            raise RunError(f"{path} is damaged ({type(error).__name__}); delete it to have the teacher anew.") from error
    else:
        model = worker.teacher(data).model
        if model.state_dict():
            files.write_model(path, model)
    return model.to(worker.engine.device)


@contextmanager
def _opened(folder: Path, recipe: Recipe, manifest: Manifest, *, resume: bool) -> Iterator[None]:
    """The folder, for this process alone, with the recipe in it.

    Raises:
        UsageError: It holds something else, nothing to go on with, or a store of another recipe.
        RunError: It cannot be made, or the disk is too small.
    """
    text = HEAD + recipe.resolved().split("\n", 1)[1]
    there = folder / files.RECIPE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        used = [path.name for path in folder.iterdir() if not path.name.startswith(".")]
        free = shutil.disk_usage(folder).free + sum(path.stat().st_size for path in folder.glob("shard-*"))
    except OSError as error:
        raise RunError(f"could not make the folder {folder}: {error.strerror or error}.") from error
    with files.held(folder, "cache"):
        if resume:
            _check_resumed(folder, there.read_text("utf-8") if there.is_file() else None, text)
        elif used:
            what = "a stored teacher" if MANIFEST in used else f"'{sorted(used)[0]}'"
            raise UsageError(f"cache: {folder} holds {what} already; go on with --resume, or give another folder by --out.")
        if free < manifest.size_bytes + SPARE_BYTES:
            raise RunError(
                f"cache: {spoken_bytes(manifest.size_bytes)} are to be stored, but {folder} has {spoken_bytes(free)} free; "
                "keep fewer classes by --top-k, take --dtype float16, or another disk."
            )
        if not resume:
            write_whole(there, text.encode())
        yield


def _check_resumed(folder: Path, found: str | None, text: str) -> None:
    """See that the same recipe was begun here.

    Raises:
        UsageError: It was not.
    """
    if found is None or not found.startswith(HEAD):
        raise UsageError(f"--resume: {folder} holds no begun store; leave --resume out, or give the folder of one.")
    theirs, ours = found.splitlines(), text.splitlines()
    changed = [line for line in theirs if line not in ours] + [line for line in ours if line not in theirs]
    if changed:
        key = changed[0].split(":")[0]
        raise UsageError(
            f"--resume: {folder} was begun with another recipe ({key} differs); take it as it was, or another folder."
        )
