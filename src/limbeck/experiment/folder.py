"""The run's folder: names of its files, and writers that leave a whole file or none. Schema: docs/guide/run-folder.md."""

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import save
from torch import nn

from limbeck import catalogue
from limbeck.core.errors import RunError, UsageError
from limbeck.training.checkpoint import write_whole

SCHEMA = 1
RECIPE, ENVIRONMENT, METRICS, SAMPLES = "recipe.yaml", "environment.json", "metrics.jsonl", "samples.parquet"
GALLERY, RESULT, TIMINGS, STUDENT, TEACHER, CARD = (
    "gallery.json",
    "result.json",
    "timings.json",
    "student.safetensors",
    "teacher.safetensors",
    "card.md",
)
OBJECTIVE = "objective.safetensors"
CHECKPOINTS = "checkpoints"
OWN = {RECIPE, ENVIRONMENT, METRICS, SAMPLES, GALLERY, RESULT, TIMINGS, STUDENT, TEACHER, CARD, CHECKPOINTS}
OWN |= {OBJECTIVE, "report.html"}
OWN |= {f"scores{ending}" for ending in (".parquet", ".matrix.parquet", ".groups.parquet", ".json", ".parts")}
"""All that a run and the commands that read it write into the folder."""
LEAST_FREE_BYTES = 64 * 2**20


@contextmanager
def opened(folder: Path, recipe: str, *, resume: bool, replace: bool) -> Iterator[None]:
    """The folder, ready to be written to and for this process alone; an older run in it goes only when told to.

    Args:
        folder: The place.
        recipe: The text of recipe.yaml.
        resume: Go on with the run of the same recipe that is there.
        replace: Remove a run that is there first.

    Raises:
        UsageError: There is a run already, or something that is no run, or nothing to resume, or another process at work.
        RunError: The folder cannot be made or cleared, or the disk is full.
    """
    found = None if not folder.exists() else _run_in(folder, recipe)
    if resume:
        _check_resume(folder, found, recipe)
    elif folder.exists() and not found and not _empty(folder):
        raise UsageError(f"{folder} is there already and is no run folder; give another by --out.")
    elif found and not replace:
        raise UsageError(f"{folder} holds a run already; go on with --resume {folder}, or write over it with --replace.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise RunError(f"could not make the folder {folder}: {error.strerror or error}.") from error
    with held(folder):
        if free < LEAST_FREE_BYTES:
            raise RunError(
                f"the disk of {folder} has {free // 2**20} MB free, a run needs at least {LEAST_FREE_BYTES // 2**20} MB."
            )
        if found and not resume:
            _clear(folder)
        if not resume:
            write_whole(folder / RECIPE, recipe.encode())
        if not (folder / ENVIRONMENT).exists():
            write_json(folder / ENVIRONMENT, environment())
        yield


def _run_in(folder: Path, recipe: str) -> str | None:
    """The recipe of the run that the folder holds; None where it holds none: a recipe as people write it is no run."""
    try:
        found = (folder / RECIPE).read_text("utf-8")
    except (OSError, ValueError):
        return None
    return found if found.splitlines()[:1] == recipe.splitlines()[:1] else None


def _check_resume(folder: Path, found: str | None, recipe: str) -> None:
    """See that what is resumed is there and is the same run.

    Raises:
        UsageError: It is not.
    """
    if found is None:
        raise UsageError(f"--resume: {folder} is no run folder, it has no {RECIPE}; give the folder that `limbeck run` wrote.")
    theirs, ours = (dict(line.split(": ", 1) for line in text.splitlines() if ": " in line) for text in (found, recipe))
    changed = [key for key in ours if theirs.get(key) != ours[key]]
    if changed or found != recipe:
        raise UsageError(
            f"--resume: {folder} was begun with another recipe ({changed[0] if changed else 'other keys'} differs); "
            "take the recipe as it was, or give another folder."
        )


def _empty(folder: Path) -> bool:
    """Whether there is nothing in it but what a start that was interrupted at once left behind."""
    return folder.is_dir() and all(_left_over(path) for path in folder.iterdir())


def _others(folder: Path) -> list[str]:
    """Names in the folder that no run writes there, sorted."""
    return sorted(path.name for path in folder.iterdir() if path.name not in OWN and not _left_over(path))


def _left_over(path: Path) -> bool:
    """Whether the file is what an interrupted write leaves behind."""
    return path.name.startswith(".") and path.name.endswith(".partial")


def _clear(folder: Path) -> None:
    """Remove a run and nothing else; its recipe goes last, so that what is left of it is known for a run.

    Raises:
        UsageError: There are other files beside it.
        RunError: Something cannot be removed.
    """
    others = _others(folder)
    if others:
        raise UsageError(f"{folder} holds '{others[0]}' beside a run's own files; move it away, or give another folder by --out.")
    try:
        for path in sorted(folder.iterdir(), key=lambda path: (path.name == RECIPE, path.name != RESULT)):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
    except OSError as error:
        raise RunError(f"could not remove the older run in {folder}: {error.strerror or error}.") from error


@contextmanager
def held(folder: Path, what: str = "run") -> Iterator[None]:
    """The folder locked for this process; the system frees it when the process ends, however it ends.

    Args:
        folder: Is there.
        what: What writes to it, for the message.

    Raises:
        UsageError: Another process holds it.
    """
    if sys.platform == "win32":  # no locks on folders
        yield
        return
    import fcntl

    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise UsageError(f"another {what} is writing to {folder} now; wait for its end, or give another --out.") from None
    except OSError:  # a file system without locks
        pass
    try:
        yield
    finally:
        os.close(handle)


def tidy(folder: Path) -> None:
    """Remove what only a resumed run needs."""
    shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)


def write_json(path: Path, content: object) -> None:
    """A JSON file, readable by people, keys in the order given."""
    write_whole(path, (_as_json(content, path, indent=1) + "\n").encode())


def write_lines(path: Path, rows: list[dict[str, object]]) -> None:
    """One JSON object a line."""
    write_whole(path, "".join(_as_json(row, path) + "\n" for row in rows).encode())


def _as_json(content: object, path: Path, indent: int | None = None) -> str:
    """JSON text.

    Raises:
        RunError: A figure is NaN or infinite.
    """
    try:
        return json.dumps(content, indent=indent, allow_nan=False, ensure_ascii=False)
    except ValueError as error:
        raise RunError(
            f"a figure for {path.name} is NaN or infinite: training has diverged; use a smaller learning rate, or clip."
        ) from error


def write_table(path: Path, columns: Mapping[str, list[object]]) -> None:
    """A parquet file."""
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(dict(columns)), sink, compression="zstd")
    write_whole(path, sink.getvalue().to_pybytes())


def write_model(path: Path, model: nn.Module) -> None:
    """A model's parameters and buffers as safetensors; shared ones are written once under each of their names."""
    write_whole(path, save({name: part.detach().cpu().contiguous().clone() for name, part in model.state_dict().items()}))


def check_finished(folder: Path) -> None:
    """See that a run ended in this folder.

    Raises:
        UsageError: It was stopped, or there is none.
    """
    if (folder / RESULT).is_file():
        return
    if (folder / RECIPE).is_file():
        raise UsageError(f"score: the run in {folder} has not ended; go on with it first: limbeck run --resume {folder}")
    raise UsageError(f"score: {folder} is no finished run folder; make one with `limbeck run`, such as `limbeck run digits`.")


def read_json(path: Path) -> dict[str, object]:
    """What `write_json` wrote.

    Raises:
        RunError: The file is missing or damaged.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(
            f"{path} cannot be read ({type(error).__name__}); the run folder is damaged, run the recipe anew."
        ) from error
    if not isinstance(content, dict):
        raise RunError(f"{path} does not hold what a run writes there; the run folder is damaged, run the recipe anew.")
    return content


def environment() -> dict[str, object]:
    """Versions, machine and time: what a figure may depend on beside the recipe."""
    packages = ["limbeck", "torch", "numpy", "scipy", "scikit-learn", "pyarrow", "accelerate", "torchvision", "timm"]
    packages += [row.package for row in catalogue.added()]
    return {
        "schema": SCHEMA,
        "python": platform.python_version(),
        "versions": {name: found for name in packages if (found := _version(name))},
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "git_commit": _commit(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit of the working directory's repository, if it is one."""
    try:
        found = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None if found.returncode == 0 else None
