"""Small teachers, samples and stores."""

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.core.batch import Batch
from limbeck.core.outputs import Outputs
from limbeck.functional.topk import top_k
from limbeck.teachers.manifest import Layout, Manifest, Precision
from limbeck.teachers.single import Single
from limbeck.teachers.store import build
from support.makers import normal

ROWS, WIDTH, CLASSES, LENGTH = 23, 6, 5, 4
VECTORS = normal(ROWS, WIDTH, seed=3, dtype=torch.float32)
TOKENS = torch.randint(9, (ROWS, LENGTH), generator=torch.Generator().manual_seed(4))
COUNTED = torch.arange(LENGTH) < (torch.arange(ROWS) % LENGTH + 1).unsqueeze(1)


def vectors(rows: Tensor) -> Batch:
    return Batch(VECTORS[rows], None, rows)


def tokens(rows: Tensor) -> Batch:
    return Batch(TOKENS[rows], None, rows, COUNTED[rows])


def classifier(seed: int = 0) -> Single:
    torch.manual_seed(seed)
    return Single(nn.Sequential(nn.Linear(WIDTH, 7), nn.ReLU(), nn.Linear(7, CLASSES)))


def reader(seed: int = 0) -> Single:
    """Logits [B, L, V] of token ids."""
    torch.manual_seed(seed)
    return Single(nn.Sequential(nn.Embedding(9, 7), nn.Linear(7, CLASSES)))


def manifest(
    k: int | None = None, *, precision: Precision = "float32", length: int | None = None, size: int = 5, **changes: Any
) -> Manifest:
    T = changes.pop("T", 1.0)
    layout = Layout(CLASSES, length, k, T, precision)
    return Manifest(layout, ROWS, size, {"name": "teacher", "weights": "w"}, {"name": "data", "marks": "m"}, **changes)


def vector_store(folder: Path, **changes: Any) -> Manifest:
    folder.mkdir(exist_ok=True)
    return build(folder, manifest(**changes), vectors, classifier(), batch_size=4)


def token_store(folder: Path, **changes: Any) -> Manifest:
    folder.mkdir(exist_ok=True)
    return build(folder, manifest(length=LENGTH, **changes), tokens, reader(), batch_size=4)


def bytes_of(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def sparse_of(outputs: Outputs, k: int) -> Outputs:
    return Outputs(outputs.logits[..., :0], sparse=top_k(outputs.logits, k))
