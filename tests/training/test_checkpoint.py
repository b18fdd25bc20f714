"""Checkpoint files: whole or not at all, never code, and a clear sentence for whatever else lies there."""

import errno
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from training_makers import Records, net, parts, prepared, train, weighting

from limbeck.core.errors import RunError
from limbeck.influence.ways import Choice
from limbeck.training.callback import Callback
from limbeck.training.checkpoint import VERSION, Keeper, load, restore, save, snapshot, write_whole
from limbeck.training.steps.simultaneous import Simultaneous
from limbeck.training.steps.student import Student
from limbeck.training.training import Record, Training

STATE = {"number": 3, "student": {"a": torch.arange(4.0)}, "rows": [{"loss": 0.5, "name": "x"}]}


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    save(tmp_path / "deep" / "a.pt", STATE)
    found = load(tmp_path / "deep" / "a.pt")
    assert found["number"] == 3
    assert torch.equal(found["student"]["a"], STATE["student"]["a"])
    assert found["rows"] == STATE["rows"]
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["a.pt"]


def test_the_same_state_is_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save(tmp_path / f"{name}.pt", STATE)
    assert (tmp_path / "a.pt").stat().st_size == (tmp_path / "b.pt").stat().st_size


class Crash(BaseException):
    """The machine goes down: nothing catches it."""


@pytest.mark.parametrize("where", ["fsync", "replace"])
def test_a_crash_while_writing_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    path = tmp_path / "a.pt"
    save(path, STATE)
    before = path.read_bytes()

    def crash(*_: object) -> None:
        raise Crash

    monkeypatch.setattr(os if where == "fsync" else Path, where, crash)
    with pytest.raises(Crash):
        save(path, {**STATE, "number": 4})
    monkeypatch.undo()
    assert path.read_bytes() == before
    save(path, {**STATE, "number": 5})
    assert load(path)["number"] == 5
    assert [found.name for found in tmp_path.iterdir()] == ["a.pt"]


def test_a_crash_before_the_first_file_leaves_none_of_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*_: object) -> None:
        raise Crash

    monkeypatch.setattr(os, "fsync", crash)
    with pytest.raises(Crash):
        write_whole(tmp_path / "a.json", b"{}")
    assert not (tmp_path / "a.json").exists()


@pytest.mark.parametrize("where", ["fsync", "write", "open", "replace"])
def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    path = tmp_path / "a.json"
    write_whole(path, b"old")
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def fails(*_: object, **__: object) -> None:
        raise full

    if where == "write":
        original = Path.open

        class Full:
            def __init__(self, file: Any) -> None:
                self.file = file

            def __enter__(self) -> "Full":
                return self

            def __exit__(self, *_: object) -> None:
                self.file.close()

            write = fails

        monkeypatch.setattr(Path, "open", lambda self, mode: Full(original(self, mode)))
    else:
        monkeypatch.setattr(os if where == "fsync" else Path, where, fails)
    with pytest.raises(RunError, match=r"^could not write .*a\.json: No space left on device; nothing half-written") as caught:
        write_whole(path, b"new")
    monkeypatch.undo()
    assert "\n" not in str(caught.value)
    assert [found.name for found in tmp_path.iterdir()] == ["a.json"]
    assert path.read_bytes() == b"old"


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="could not write"):
        write_whole(tmp_path / "file" / "a.json", b"")


@pytest.mark.parametrize("keep", [0, 1, 100, 0.5, 0.99])
def test_a_truncated_checkpoint_is_told_of(tmp_path: Path, keep: float) -> None:
    path = tmp_path / "a.pt"
    save(path, STATE)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep if keep >= 1 or keep == 0 else keep * len(content))])
    with pytest.raises(RunError, match=r"^the checkpoint .*a\.pt is damaged \(\w+\); delete it"):
        load(path)


def test_garbage_and_other_things_are_told_of(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    for content in (b"hello", os.urandom(1000), pickle.dumps({"version": VERSION})):
        path.write_bytes(content)
        with pytest.raises(RunError, match="the checkpoint"):
            load(path)
    for thing in (torch.zeros(3), [1, 2], 5, None, {"version": VERSION + 1}, {"other": 1}):
        torch.save(thing, path)
        with pytest.raises(RunError, match="the checkpoint"):
            load(path)


class Bomb:
    """Runs code when it is unpickled the plain way."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def test_a_checkpoint_never_runs_code(tmp_path: Path) -> None:
    path, mark = tmp_path / "a.pt", tmp_path / "exploded"
    torch.save({"version": VERSION, "x": Bomb(mark)}, path)
    with pytest.raises(RunError, match="is damaged"):
        load(path)
    path.write_bytes(pickle.dumps({"version": VERSION, "x": Bomb(mark)}))
    with pytest.raises(RunError, match="is damaged"):
        load(path)
    assert not mark.exists()


def test_a_bit_that_flipped_is_told_of(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    save(path, {"a": torch.zeros(1000)})
    content = bytearray(path.read_bytes())
    place = len(content) // 2
    content[place] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(RunError, match="is damaged"):
        load(path)


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path / "a.pt", every=1, pause_s=0)
    train(parts(weights=weighting()), steps=2, keeper=keeper)
    for other in (parts(kind="layernorm", weights=weighting()), parts()):
        with pytest.raises(RunError, match=r"^the checkpoint .*a\.pt does not fit this run"):
            train(other, steps=4, keeper=keeper)
    with pytest.raises(RunError, match="does not fit this run"):
        train(parts(weights=weighting(), trained=True), Simultaneous(), steps=4, keeper=keeper)
    with pytest.raises(RunError, match="does not fit this run"):
        train(parts(weights=weighting()), steps=4, keeper=keeper, callbacks=[Records()])


@pytest.mark.parametrize(("every", "numbers"), [(1, [1, 2, 3, 4, 5, 6]), (4, [4]), (0, [4, 6]), (100, [])])
def test_when_it_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: int, numbers: list[int]) -> None:
    seen: list[int] = []
    monkeypatch.setattr("limbeck.training.checkpoint.save", lambda path, state: seen.append(state["number"]))
    train(parts(), steps=6, keeper=Keeper(tmp_path / "a.pt", every=every, pause_s=0))
    assert seen == numbers


def test_a_pause_spares_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    now = [0.0]
    monkeypatch.setattr("limbeck.training.checkpoint.time.monotonic", lambda: now[0])
    monkeypatch.setattr("limbeck.training.checkpoint.save", lambda path, state: seen.append(state["number"]))

    class Clock(Callback):
        def after_step(self, training: Training, record: Record) -> None:
            now[0] += 2.0

    keeper = Keeper(tmp_path / "a.pt", every=1, pause_s=5.0)
    keeper._last = 0.0
    train(parts(), steps=8, keeper=keeper, callbacks=[Clock()])
    assert seen == [3, 6]


def test_a_snapshot_is_not_changed_by_what_follows(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path / "a.pt", every=3, pause_s=0)
    train(parts(), steps=5, keeper=keeper)
    kept = load(keeper.path)
    assert kept["number"] == 3
    fresh = parts()
    train(fresh, steps=3)
    for name, part in fresh.distiller.student.state_dict().items():
        assert torch.equal(part, kept["student"][name])
    assert net().state_dict().keys() == fresh.distiller.student.model.state_dict().keys()


def test_what_the_trial_of_the_ways_has_shown_is_kept() -> None:
    step, found = Student(), Choice("captured", ("one reason",), ("model.places",))
    training, _ = prepared(parts(weights=weighting()), step)
    training.way = found
    state = snapshot(training, step, [])
    training.way = None
    restore(state, training, step, [])
    assert training.way == found
