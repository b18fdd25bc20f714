"""The run's folder: names of its files, and writers that leave a whole file or none. Schema: docs/guide/run-folder.md."""

import json
import os
import platform
import shutil
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import save
from torch import nn

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
CHECKPOINTS = "checkpoints"
LEAST_FREE_BYTES = 64 * 2**20


def open_folder(folder: Path, *, resume: bool, replace: bool) -> None:
    """Make the folder ready to be written to; an older run in it goes only when told to.

    Raises:
        UsageError: There is a run already, or something that is no run folder, or nothing to resume.
        RunError: The folder cannot be made, or the disk is full.
    """
    if resume:
        if not (folder / RECIPE).is_file():
            raise UsageError(
                f"--resume: {folder} is no run folder, it has no {RECIPE}; give the folder that `limbeck run` wrote."
            )
        return
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        if folder.is_dir() and not (folder / RECIPE).is_file():
            raise UsageError(f"{folder} is there already and is no run folder; give another by --out.")
        if not replace:
            raise UsageError(f"{folder} holds a run already; go on with --resume {folder}, or write over it with --replace.")
        shutil.rmtree(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise RunError(f"could not make the folder {folder}: {error.strerror or error}.") from error
    if free < LEAST_FREE_BYTES:
        shutil.rmtree(folder, ignore_errors=True)
        raise RunError(f"the disk of {folder} has {free // 2**20} MB free, a run needs at least {LEAST_FREE_BYTES // 2**20} MB.")


def write_json(path: Path, content: object) -> None:
    """A JSON file, readable by people, keys in the order given."""
    write_whole(path, (json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False) + "\n").encode())


def write_lines(path: Path, rows: list[dict[str, object]]) -> None:
    """One JSON object a line."""
    write_whole(path, "".join(json.dumps(row, allow_nan=False, ensure_ascii=False) + "\n" for row in rows).encode())


def write_table(path: Path, columns: Mapping[str, list[object]]) -> None:
    """A parquet file."""
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(dict(columns)), sink, compression="zstd")
    write_whole(path, sink.getvalue().to_pybytes())


def write_model(path: Path, model: nn.Module) -> None:
    """A model's parameters and buffers as safetensors; shared ones are written once under each of their names."""
    write_whole(path, save({name: part.detach().cpu().contiguous().clone() for name, part in model.state_dict().items()}))


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
    packages = ("limbeck", "torch", "numpy", "scipy", "scikit-learn", "pyarrow", "accelerate", "torchvision", "timm")
    return {
        "schema": SCHEMA,
        "python": platform.python_version(),
        "packages": {name: found for name in packages if (found := _version(name))},
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "commit": _commit(),
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
