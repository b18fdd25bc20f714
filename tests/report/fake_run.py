"""Writes a run folder as `limbeck run` does (docs/guide/run-folder.md) from seeded numbers; nothing is trained."""

import base64
import io
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from sklearn.datasets import load_digits

from limbeck.evaluation.verdict import judge

ARMS = {  # title, accuracy, nll, ece, agreement, epochs it takes to learn
    "teacher": ("Teacher", 0.879, 0.52, 0.11, 1.0),
    "no_kd": ("No distillation (labels only)", 0.871, 0.71, 0.21, 0.85),
    "uniform": ("Plain KD (all weights 1)", 0.893, 0.55, 0.17, 0.90),
    "query_in_training": ("Plain KD + query set in training", 0.917, 0.47, 0.15, 0.91),
    "random_weights": ("KD, random weights", 0.891, 0.56, 0.17, 0.90),
    "own_loss": ("KD, weights from own loss", 0.925, 0.40, 0.10, 0.91),
    "oracle": ("KD, flipped labels dropped (oracle)", 0.952, 0.26, 0.06, 0.92),
    "kd_aif": ("KD-AIF", 0.930, 0.38, 0.11, 0.92),
}
RECIPE = """\
data: Digits(label_noise=0.4, seed=0)
teacher: MLP(width=512, depth=3)
student: MLP(width=32, depth=1)
objective: KD(T=4) * 0.3 + CE() * 0.7
weighting: InfluenceWeighting(solver=EKFAC(damping=0.1), normalise="zscore", refresh=20)
step: Offline()
optimizer: SGD(lr=0.05, momentum=0.9)
epochs: 30
seeds: 5
compare: [no_kd, uniform, query_in_training, random_weights, own_loss, oracle]
"""


def write(folder: Path, *, seeds: int = 5, kind: str = "image", truth: bool = True, epochs: int = 30) -> Path:
    """A finished run of digits with 40 % flips: eight arms, as many seeds as asked for."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(7)
    digits = load_digits()
    samples = _samples(rng, digits.data / 16.0, digits.target, seeds, truth)
    result = _result(rng, samples, seeds, truth, kind)
    (folder / "recipe.yaml").write_text(RECIPE)
    _json(folder / "environment.json", _environment())
    _json(folder / "timings.json", _timings(seeds))
    _json(folder / "result.json", result)
    _json(folder / "gallery.json", {"samples": _gallery(samples, digits.images, kind)})
    lines = [json.dumps(line) for line in _metrics(rng, result, seeds, epochs, truth)]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    pq.write_table(samples, folder / "samples.parquet")
    return folder


def edit(folder: Path, change: dict[str, Any], name: str = "result.json") -> Path:
    """Change fields of one of the folder's JSON files; a dotted key goes inwards, None as value takes the field away."""
    content = json.loads((folder / name).read_text())
    for key, value in change.items():
        *path, last = key.split(".")
        place = content
        for step in path:
            place = place[step]
        if value is None:
            place.pop(last, None)
        else:
            place[last] = value
    _json(folder / name, content)
    return folder


def _json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=1))


def _softmax(logits: np.ndarray) -> np.ndarray:
    e = np.exp(logits - logits.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def _samples(rng: np.random.Generator, x: np.ndarray, y: np.ndarray, seeds: int, truth: bool) -> pa.Table:
    """Nearest-mean classifiers stand in for teacher and student; the score grows with the loss of the given label."""
    flip = np.zeros(len(y), dtype=bool)
    flip[rng.permutation(len(y))[: int(0.4 * len(y) + 0.5)]] = True
    label = np.where(flip, (y + rng.integers(1, 10, len(y))) % 10, y)
    means = np.stack([x[y == c].mean(0) for c in range(10)])
    near = -((x[:, None] - means) ** 2).sum(-1)
    tables = []
    for seed in range(seeds):
        train = rng.permutation(len(y))[:1138]
        teacher, student = (_softmax(near[train] * s + rng.normal(0, n, (1138, 10))) for s, n in ((0.9, 0.7), (0.6, 0.5)))
        given = label[train]
        rows = np.arange(1138)
        loss = -np.log(student[rows, given] + 1e-9)
        score = (loss - loss.mean()) * 0.02 * (1 + seed / 4) + rng.normal(0, 0.025, 1138)
        z = np.clip(score / score.std(), -4, 4)
        weight = np.where(rows < 200, 1.0, 2 / (1 + np.exp(1.4 * z)))
        tables.append(
            pa.table(
                {
                    "seed": np.full(1138, seed),
                    "index": train,
                    "split": ["query"] * 200 + ["train"] * 938,
                    "label": np.where(rows < 200, y[train], given),
                    "true_label": pa.array(y[train] if truth else [None] * 1138, pa.int64()),
                    "teacher_label": teacher.argmax(1),
                    "student_label": student.argmax(1),
                    "teacher_prob": teacher[rows, given],
                    "student_prob": student[rows, given],
                    "score": score,
                    "weight": weight,
                    "mean_weight": 1 + (weight - 1) * 0.8 + rng.normal(0, 0.03, 1138).clip(-0.1, 0.1),
                }
            )
        )
    return pa.concat_tables(tables)


def _gallery(samples: pa.Table, images: np.ndarray, kind: str) -> list[dict[str, Any]]:
    first = samples.filter(pa.compute.and_(pa.compute.equal(samples["seed"], 0), pa.compute.equal(samples["split"], "train")))
    order = np.argsort(first["score"].to_numpy())
    index = first["index"].to_numpy()
    chosen = [int(i) for i in (*index[order[:16]], *index[order[-16:]])]
    return [{"index": i, "kind": kind} | _shown(images[i], i, kind) for i in chosen]


def _shown(image: np.ndarray, index: int, kind: str) -> dict[str, Any]:
    if kind == "text":
        return {"text": f"Review {index}: the plot is thin, but the camera never lies & the ending <stays> with you. " * 3}
    if kind == "row":
        return {
            "row": {"age": 20 + index % 50, "income": 31_000.5 + index, "city": "Graz", "married": index % 2 == 0, "note": None}
        }
    file = io.BytesIO()
    Image.fromarray((255 - image * 255 / 16).astype(np.uint8)).save(file, format="PNG")
    return {"png_base64": base64.b64encode(file.getvalue()).decode()}


def _result(rng: np.random.Generator, samples: pa.Table, seeds: int, truth: bool, kind: str) -> dict[str, Any]:
    shared = rng.normal(0, 0.006, seeds)
    arms = {}
    for key, (title, *levels) in ARMS.items():
        if key == "oracle" and not truth:
            continue
        spread = (0.004, 0.02, 0.008, 0.006)
        values = [list(np.round(level + rng.normal(0, s, seeds), 5)) for level, s in zip(levels, spread, strict=True)]
        accuracy = [round(float(a + b), 5) for a, b in zip(values[0], shared, strict=True)]
        per_seed = {"accuracy": accuracy, "nll": values[1], "ece": values[2], "agreement": values[3]}
        arms[key] = {"title": title, "per_seed": per_seed | {"validation_accuracy": [round(a - 0.004, 5) for a in accuracy]}}
    rivals = [key for key in arms if key not in ("teacher", "kd_aif")]
    verdict = judge(arms["kd_aif"]["per_seed"]["accuracy"], {rival: arms[rival]["per_seed"]["accuracy"] for rival in rivals})
    comparisons = [{"against": rival, "metric": "accuracy"} | asdict(found) for rival, found in verdict.comparisons.items()]
    guard = "The guard saw the query loss rise over 3 refreshes and used uniform weights for 20 steps."
    return {
        "schema": 1,
        "limbeck": "0.1.0",
        "name": "digits",
        "status": "done",
        "seeds": list(range(seeds)),
        "data": {
            "name": "Digits(label_noise=0.4, seed=0)",
            "kind": {"image": "image", "text": "tokens", "row": "vector"}[kind],
            "classes": [str(c) for c in range(10)],
            "counts": {"train": 938, "query": 200, "validation": 120, "test": 539},
            "flipped_in_training": [375, 371, 380, 374, 377][:seeds] if truth else None,
            "query_labels": "true labels" if truth else "labels as given",
        },
        "models": {
            "teacher": {"name": "MLP(width=512, depth=3)", "parameters": 563_722, "flops": 1_124_352},
            "student": {"name": "MLP(width=32, depth=1)", "parameters": 2_410, "flops": 4_736},
        },
        "arms": arms,
        "main": "kd_aif",
        "verdict": {
            "answer": verdict.answer,
            "sentence": verdict.sentence,
            "against": {c["against"]: c["answer"] for c in comparisons},
            "comparisons": comparisons,
            "margin": verdict.margin,
        },
        "weights": _weights(samples, seeds, truth),
        "events": [{"seed": s, "arm": "kd_aif", "step": 120 + 7 * s, "what": guard} for s in range(min(seeds, 2))],
        "warnings": ["The teacher was trained on the same noisy labels as the student."],
    }  # fmt: skip


def _weights(samples: pa.Table, seeds: int, truth: bool) -> dict[str, Any]:
    ess: dict[str, Any] = {"effective_sample_size": [0.78, 0.77, 0.79, 0.78, 0.76][:seeds], "saturated": [0.01] * seeds}
    ess["schedule"] = "taken at every step, along a q that is renewed every 20 steps; scores are scaled by zscore"
    if not truth:
        return ess | {"flipped_auc": None, "mean_weight_flipped": None, "mean_weight_clean": None}
    train = samples.filter(pa.compute.equal(samples["split"], "train")).to_pandas()
    wrong = train["label"] != train["true_label"]
    known = {
        "mean_weight_flipped": train[wrong].groupby("seed")["mean_weight"].mean().tolist(),
        "mean_weight_clean": train[~wrong].groupby("seed")["mean_weight"].mean().tolist(),
    }
    return ess | {"flipped_auc": [0.96, 0.95, 0.97, 0.96, 0.96][:seeds]} | known


def _metrics(rng: np.random.Generator, result: dict[str, Any], seeds: int, epochs: int, truth: bool) -> list[dict[str, Any]]:
    lines = []
    for seed in range(seeds):
        for key, arm in result["arms"].items():
            top, nll = arm["per_seed"]["accuracy"][seed], arm["per_seed"]["nll"][seed]
            for epoch in range(1, epochs + 1):
                learnt = 1 - np.exp(-epoch / 4.5)
                over = 0.0 if key in ("kd_aif", "oracle", "own_loss") else 0.003 * epoch
                loss = 2.3 * (1 - learnt) + nll * learnt + over / 3 + rng.normal(0, 0.008)
                place = {"seed": seed, "arm": key, "step": epoch * 14, "epoch": epoch}
                train = place | {"phase": "train", "loss": loss * 1.3, "terms": {"KD": loss, "CE": loss * 1.6}}
                train["weighted"] = {"KD": 0.3 * loss, "CE": 1.12 * loss}
                if epoch % 10 == 0:
                    train["shares"] = {"KD": 0.2 + 0.01 * epoch, "CE": 0.8 - 0.01 * epoch}
                if key == "kd_aif":
                    train["weights"] = _weight_figures(learnt, truth)
                accuracy = 0.1 + (top - 0.1) * learnt - over + rng.normal(0, 0.004)
                lines += [train, place | {"phase": "validation", "loss": loss, "accuracy": accuracy, "nll": loss}]
    return lines


def _weight_figures(learnt: float, truth: bool) -> dict[str, Any]:
    figures = {"mean": 1.0, "std": 0.6, "min": 0.04, "max": 1.96, "below_one": 0.46, "ess": 0.78, "saturated": 0.01}
    return figures | ({"flipped": 1 - 0.5 * learnt, "clean": 1 + 0.32 * learnt} if truth else {})


def _environment() -> dict[str, Any]:
    return {
        "python": "3.11.7",
        "versions": {"torch": "2.9.0", "numpy": "2.3.0", "limbeck": "0.1.0"},
        "platform": "Linux x86_64",
        "threads": 2,
        "git_commit": "0123456789abcdef",
        "started": "2026-01-02T03:04:05Z",
    }


def _timings(seeds: int) -> dict[str, Any]:
    return {
        "seconds": {key: [4.0 + s / 10 for s in range(seeds)] for key in ARMS},
        "latency_ms": {"teacher": 0.412, "student": 0.031},
        "step_ms": {"uniform": 1.9, "kd_aif": 2.4},
    }
