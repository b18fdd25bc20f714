"""`limbeck cache` and training from what it stored: the same bytes as the live teacher, however often it was stopped."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from run_makers import TINY, rows_of, tiny
from safetensors.torch import load_file, save_file

from limbeck.cli.app import main
from limbeck.core.errors import RunError, UsageError
from limbeck.experiment import caching
from limbeck.experiment.caching import Wanted, cache, plan
from limbeck.experiment.kept import kept
from limbeck.experiment.run import dry_run, run
from limbeck.report import render

ONE: dict[str, Any] = {"seeds": 1, "epochs": 1, "compare": ["uniform"], "weighting": "Uniform()"}
STORE = {"manifest.json", "recipe.yaml", "shard-00000.safetensors", "teacher.safetensors"}
LESS: dict[str, Any] = {**ONE, "compare": []}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stores") / "dense"
    cache(tiny(**ONE), folder, Wanted())
    return folder


@pytest.fixture(scope="module")
def sparse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stores") / "sparse"
    cache(tiny(**ONE), folder, Wanted(top_k=3, T=2.0, precision="float16"))
    return folder


def of(folder: Path, more: str = "") -> str:
    return f"Stored({str(folder)!r}{more})"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.slow
def test_a_run_from_the_store_is_that_with_the_live_teacher_to_the_last_bit(store: Path, tmp_path: Path) -> None:
    changes = {**ONE, "weighting": TINY["weighting"], "compare": ["no_kd", "uniform"]}
    run(tiny(**changes), tmp_path / "live")
    found = run(tiny(**changes, teacher=of(store)), tmp_path / "stored").content
    wanted = json.loads((tmp_path / "live" / "result.json").read_text())
    for name in ("student.safetensors", "samples.parquet", "gallery.json"):
        assert (tmp_path / "live" / name).read_bytes() == (tmp_path / "stored" / name).read_bytes()
    assert [row for row in rows_of(tmp_path / "live") if row["arm"] != "teacher"] == rows_of(tmp_path / "stored")
    assert found["verdict"] == wanted["verdict"]
    assert found["models"]["student"] == wanted["models"]["student"]
    assert found["models"]["teacher"] == {**wanted["models"]["teacher"], "name": of(store)}
    theirs, ours = (content["arms"]["teacher"]["per_seed"] for content in (wanted, found))
    assert ours == {name: theirs[name] for name in ours}
    assert not (tmp_path / "stored" / "teacher.safetensors").exists()
    assert found["warnings"] == wanted["warnings"]
    assert {path.name for path in store.iterdir()} == STORE
    assert render(tmp_path / "stored").is_file()
    assert kept(tmp_path / "stored").queries


@pytest.mark.slow
def test_a_run_from_few_classes_leaves_out_what_nobody_knows(sparse: Path, tmp_path: Path) -> None:
    changes = {**ONE, "objective": "TopKTail(KD(T=2)) * 0.5 + CE() * 0.5"}
    content = run(tiny(**changes, teacher=of(sparse)), tmp_path / "run").content
    assert content["arms"]["teacher"]["per_seed"] == {}
    assert content["arms"]["uniform"]["per_seed"]["agreement"] == [None]
    assert content["models"]["teacher"]["parameters"] == 64 * 16 + 16 + 16 * 10 + 10
    columns = pq.read_schema(tmp_path / "run" / "samples.parquet").names
    assert "student_prob" in columns
    assert "teacher_prob" not in columns
    assert render(tmp_path / "run").is_file()
    live = run(tiny(**changes | {"objective": "TopKTail(KD(T=2), k=3) * 0.5 + CE() * 0.5"}), tmp_path / "live").content
    assert content["arms"]["main"]["per_seed"]["nll"] == pytest.approx(live["arms"]["main"]["per_seed"]["nll"], abs=1e-3)


def test_what_does_not_fit_the_store_is_refused_before_training(store: Path, sparse: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    save_file({name: part + 1 for name, part in load_file(store / "teacher.safetensors").items()}, other)
    refused: list[tuple[dict[str, Any], str]] = [
        ({"teacher": of(sparse)}, r"KD\(T=2\) reads the teacher's logits, but Stored offers topk only"),
        ({"teacher": of(sparse), "objective": "TopKTail(KD(T=1))"}, "probabilities were taken at 2"),
        ({"teacher": of(store), "step": "Simultaneous()"}, "step: it updates the teacher, but Stored.* has no net"),
        ({"teacher": of(store), "teacher_weights": str(other)}, "a teacher with other weights"),
        ({"teacher": of(store), "objective": "FitNet()"}, "reads the teacher's features, but Stored offers logits only"),
    ]
    for changes, words in refused:
        with pytest.raises(UsageError, match=words):
            run(tiny(**{**LESS, **changes}), tmp_path / "run")
        assert not (tmp_path / "run").exists()
    run(tiny(**LESS, teacher=of(store), teacher_weights=str(store / "teacher.safetensors")), tmp_path / "own")


def arrays(path: Path, *, moved: bool = False) -> str:
    import numpy as np
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    images = images.reshape(-1, 1, 8, 8).astype(np.float32)
    np.savez(path, inputs=images[::-1] if moved else images, labels=labels[::-1] if moved else labels)
    return f"Arrays({str(path)!r})"


def test_other_data_and_transforms_are_refused(tmp_path: Path) -> None:
    plain, moved = arrays(tmp_path / "a.npz"), arrays(tmp_path / "b.npz", moved=True)
    cache(tiny(**LESS, data=plain), tmp_path / "store", Wanted())
    told, untold = of(tmp_path / "store", ", ignore_transform=True"), of(tmp_path / "store")
    for teacher in (told, untold):
        with pytest.raises(UsageError, match=r"are not what .* holds answers to"):
            run(tiny(**LESS, data=moved, teacher=teacher), tmp_path / "run")
    with pytest.raises(UsageError, match="a transform changed them"):
        run(tiny(**LESS, data=plain, teacher=untold, transform="CropFlip(padding=1)"), tmp_path / "run")
    with pytest.raises(UsageError, match="mixed in pairs"):
        run(tiny(**LESS, data=plain, teacher=told, transform="MixUp()", objective="KD()"), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    run(tiny(**LESS, data=plain, teacher=told, transform="CropFlip(padding=1)"), tmp_path / "run")


@pytest.mark.slow
def test_another_test_split_than_the_teachers_is_told_of(store: Path, tmp_path: Path) -> None:
    said = run(tiny(**LESS, teacher=of(store), test=0.2), tmp_path / "run").content["warnings"]
    assert any(
        sentence.startswith("The teacher was not trained in this run and the test split was cut here") for sentence in said
    )


@pytest.mark.slow
def test_language_from_few_tokens_equals_the_live_teacher_at_as_many(tmp_path: Path) -> None:
    draw = random.Random(0)
    (tmp_path / "t.txt").write_text(" ".join(draw.choice(["the", "cat", "sat", "on", "a", "mat"]) for _ in range(400)))
    language: dict[str, Any] = {
        **LESS,
        "data": f"Text({str(tmp_path / 't.txt')!r}, length=16)",
        "teacher": "GPT(width=16, depth=1, heads=2)",
        "student": "GPT(width=8, depth=1, heads=2)",
        "optimizer": "Adam(lr=0.02)",
        "batch_size": 32,
        "query": 10,
    }
    made = cache(tiny(**language), tmp_path / "store", Wanted(top_k=5))
    assert (made.layout.k, made.layout.length, made.layout.classes) == (5, 16, 258)
    live = run(tiny(**language, objective="TopKTail(JSD(), k=5)"), tmp_path / "live").content
    teacher = {"teacher": of(tmp_path / "store"), "objective": "TopKTail(JSD())"}
    stored = run(tiny(**{**language, **teacher}), tmp_path / "stored").content
    theirs, ours = (content["arms"]["main"]["per_seed"]["nll"] for content in (live, stored))
    assert ours == pytest.approx(theirs, rel=1e-5)
    with pytest.raises(UsageError, match="a stored teacher knows no new texts"):
        run(tiny(**{**language, **teacher}, step="OnPolicy(share=1.0)"), tmp_path / "new")
    with pytest.raises(UsageError, match="is not stored"):
        run(tiny(**{**language, **teacher, "data": language["data"].replace("length=16", "length=12")}), tmp_path / "new")


class Power(BaseException):
    """The power fails."""


@pytest.mark.slow
def test_the_power_fails_at_every_write(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, original, fails = tmp_path / "cut", Path.replace, 0
    while not (folder / "shard-00000.safetensors").exists():

        def fail(self: Path, target: Path, late: bool = fails % 2 == 1, left: list[int] = [fails // 2]) -> Path:  # noqa: B006
            left[0] -= 1
            if left[0] < 0 and late:
                original(self, target)
            if left[0] < 0:
                raise Power
            return original(self, target)

        monkeypatch.setattr(Path, "replace", fail)
        with pytest.raises(Power):
            cache(tiny(**ONE), folder, Wanted(), resume=(folder / "recipe.yaml").exists())
        monkeypatch.undo()
        fails += 1
    cache(tiny(**ONE), folder, Wanted(), resume=True)
    assert fails > 4
    assert {name: content for name, content in contents(folder).items() if not name.startswith(".")} == contents(store)


def test_folders_that_hold_something_are_left_alone(store: Path, tmp_path: Path) -> None:
    before = contents(store)
    with pytest.raises(UsageError, match="holds a stored teacher already; go on with --resume"):
        cache(tiny(**ONE), store, Wanted())
    with pytest.raises(UsageError, match=r"begun with another recipe \(teacher differs\)"):
        cache(tiny(**ONE, teacher="MLP(width=17, depth=1)"), store, Wanted(), resume=True)
    with pytest.raises(UsageError, match="begun otherwise, what is kept differs"):
        cache(tiny(**ONE), store, Wanted(top_k=2), resume=True)
    cache(tiny(**ONE), store, Wanted(), resume=True)
    assert contents(store) == before
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"holds 'notes.txt' already"):
        cache(tiny(**ONE), tmp_path, Wanted())
    with pytest.raises(UsageError, match="holds no begun store"):
        cache(tiny(**ONE), tmp_path, Wanted(), resume=True)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    with pytest.raises(UsageError, match="are stored already"):
        cache(tiny(**ONE, teacher=of(store)), tmp_path / "new", Wanted())


def test_a_disk_that_is_too_small_is_told_of_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(caching.shutil, "disk_usage", lambda _: usage._replace(free=2**20))
    with pytest.raises(RunError, match=r"84.2 kB are to be stored, but .* has 1.0 MB free"):
        cache(tiny(**ONE), tmp_path / "store", Wanted())
    assert not any((tmp_path / "store").iterdir())


def test_plans_say_the_size(store: Path) -> None:
    lines = plan(tiny(**ONE), Wanted(top_k=3, precision="float16")).splitlines()
    assert lines[1] == "teacher  MLP(width=16): is trained first, 5 steps"
    # 3 ids of 4 bytes, 3 numbers and a tail of 2, and a mark of 8
    assert lines[2] == "kept     the 3 most probable classes and the others' mass in float16: 28 bytes a sample"
    assert lines[3] == "size     49.1 kB in 1 shards"
    assert "1,210 parameters" in str(dry_run(tiny(**ONE, teacher=of(store))))


def recipe_file(folder: Path, **changes: Any) -> Path:
    path = folder / "tiny.yaml"
    path.write_text("".join(f"{key}: {value}\n" for key, value in {**TINY, **ONE, **changes}.items()))
    return path


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = str(recipe_file(tmp_path))
    assert main(["cache", path, "--out", "t", "--dry-run"]) == 0
    assert not (tmp_path / "t").exists()
    assert main(["cache", path, "--out", "t", "--top-k", "3", "--dtype", "float16", "--quiet"]) == 0
    assert "stored: t, 1,797 samples, 49.1 kB; use it as teacher=Stored('t')" in capsys.readouterr().out
    assert main(["cache", path, "--out", "t", "--quiet"]) == 2
    assert main(["cache", path, "--out", "u", "--temperature", "2"]) == 2
    assert "logits have no temperature" in capsys.readouterr().err
    assert main(["cache", path, "--out", "u", "--top-k", "11"]) == 2
    assert "--top-k 11 is more than the 10 classes" in capsys.readouterr().err
    assert not (tmp_path / "u").exists()


@pytest.mark.slow
def test_the_command_killed_and_gone_on_with(tmp_path: Path) -> None:
    path = recipe_file(tmp_path, epochs=10, checkpoint_every=5)
    command = [sys.executable, "-m", "limbeck.cli", "cache", str(path), "--top-k", "3", "--quiet", "--out"]
    subprocess.run([*command, "calm"], check=True, cwd=tmp_path, stdout=subprocess.DEVNULL)
    killed, resume, deaths = tmp_path / "killed", False, 0
    for name in ("recipe.yaml", "checkpoints/*.pt", "teacher.safetensors"):
        words = [*command, "killed", *(["--resume"] if resume else [])]
        process = subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.DEVNULL)
        while process.poll() is None and not list(killed.glob(name)):
            time.sleep(0.002)
        os.kill(process.pid, signal.SIGKILL)
        deaths += process.wait() == -signal.SIGKILL
        resume = True
    subprocess.run([*command, "killed", "--resume"], check=True, cwd=tmp_path, stdout=subprocess.DEVNULL)
    assert deaths == 3
    assert contents(killed) == contents(tmp_path / "calm")
