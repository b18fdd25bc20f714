"""Killed with SIGKILL at moments of its own choosing and gone on with, a run ends in the same bytes as an undisturbed one."""

import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import torch._dynamo  # noqa: F401 - optimizers load it at their first step: here once, not in every child
from run_makers import FILES, TINY, marks, tiny

from limbeck.experiment.logbook import Advance
from limbeck.experiment.recipe import Recipe
from limbeck.experiment.run import run
from limbeck.training.training import Record, Training
from limbeck.weighting.influence import InfluenceWeighting
from limbeck.weighting.weighting import Step

CHOICE = random.Random(7)
KEPT_OFTEN = {"checkpoint_every": 2, "compare": ["uniform"]}


def child(recipe: Recipe, folder: Path, resume: bool) -> None:
    torch.set_num_threads(1)
    run(recipe, folder, resume=resume)
    os._exit(0)


@contextmanager
def started(recipe: Recipe, folder: Path) -> Iterator[multiprocessing.Process]:
    """The run in a process of its own, killed in the end; forked, which spares the import of torch and of much else."""
    resume = (folder / "recipe.yaml").exists()
    process = multiprocessing.get_context("fork").Process(target=child, args=(recipe, folder, resume), daemon=True)
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> None:
    """All that a run imports on its way is there before the first fork."""
    run(tiny(seeds=1, epochs=1, compare=["uniform"]), tmp_path_factory.mktemp("loaded") / "run")


def kill_often(recipe: Recipe, folder: Path, kills: int) -> None:
    """An undisturbed run, one that is killed so often, and what they must have in common."""
    began = time.monotonic()
    run(recipe, folder / "calm")
    whole, died, tries = time.monotonic() - began, 0, 0
    while died < kills:
        tries += 1
        assert tries < 40, "the runs end before they can be killed"
        with started(recipe, folder / "killed") as process:
            process.join(CHOICE.uniform(0.05, 0.5) * whole)
            died += process.is_alive()
        if (folder / "killed" / "result.json").exists():
            assert marks(folder / "killed") == marks(folder / "calm")
            shutil.rmtree(folder / "killed")
    with started(recipe, folder / "killed") as process:
        process.join(60)
        assert process.exitcode == 0
    assert {path.name for path in (folder / "killed").iterdir()} == FILES
    assert marks(folder / "killed") == marks(folder / "calm")


forks = [
    pytest.mark.dist,
    pytest.mark.skipif(torch.cuda.is_available(), reason="forks"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.usefixtures("loaded"),
]
QUICK = {**KEPT_OFTEN, "seeds": 1}
CHANGES: dict[str, dict[str, object]] = {
    "student": {"seeds": 2},
    "simultaneous": {"step": "Simultaneous(feedback=0.5)", "epochs": 3},
    "offline": {"step": "Offline(epochs=1)"},
    "shuffled": {
        "weighting": "Shuffled(InfluenceWeighting(refresh=2))",
        "optimizer": "Adam(lr=0.01)",
        "accumulate": 2,
    },
}


class TestForked:
    pytestmark = forks

    def test_killed_three_times_and_gone_on_with(self, tmp_path: Path) -> None:
        kill_often(tiny(**QUICK, step="Simultaneous(feedback=0.5)"), tmp_path, 3)

    @pytest.mark.slow
    @pytest.mark.parametrize("name", CHANGES)
    def test_killed_many_times(self, tmp_path: Path, name: str) -> None:
        kill_often(tiny(**{**QUICK, **CHANGES[name]}), tmp_path, 8)


class Power(BaseException):
    """The power fails; nothing catches it."""


@pytest.mark.slow
def test_the_power_fails_while_files_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At one write after the other, before and after the file has its name."""
    recipe = tiny(compare=[], seeds=1, epochs=1)
    run(recipe, tmp_path / "calm")
    folder, original, fails = tmp_path / "run", Path.replace, 0
    while not (folder / "result.json").exists():
        left = iter(range(fails, -1, -1))

        def replace(self: Path, target: Path, left: Iterator[int] = left, late: bool = fails % 2 == 1) -> Path:
            ends = next(left) == 0
            if ends and not late:
                raise Power
            moved = original(self, target)
            if ends:
                raise Power
            return moved

        monkeypatch.setattr(Path, "replace", replace)
        with pytest.raises(Power):
            run(recipe, folder, resume=(folder / "recipe.yaml").exists())
        monkeypatch.undo()
        fails += 1
    run(recipe, folder, resume=True)
    assert fails > 4
    assert {path.name for path in folder.iterdir()} == FILES
    assert marks(folder) == marks(tmp_path / "calm")


@pytest.mark.slow
def test_what_was_warned_of_before_the_kill_is_in_the_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, weigh, advance = tiny(**QUICK), InfluenceWeighting.__call__, Advance.after_step

    def warn(self: InfluenceWeighting, step: Step) -> torch.Tensor:
        if step.number == 2:
            warnings.warn("something was odd", stacklevel=1)
        return weigh(self, step)

    def stop(self: Advance, training: Training, record: Record) -> None:
        if training.number == 7 and isinstance(training.distiller.weighting, InfluenceWeighting):
            raise Power
        advance(self, training, record)

    monkeypatch.setattr(InfluenceWeighting, "__call__", warn)
    calm = run(recipe, tmp_path / "calm").content
    assert [event["what"] for event in calm["events"]] == ["something was odd"]
    assert calm["events"][0]["step"] == 3
    with monkeypatch.context() as patch:
        patch.setattr(Advance, "after_step", stop)
        with pytest.raises(Power):
            run(recipe, tmp_path / "killed")
    run(recipe, tmp_path / "killed", resume=True)
    assert marks(tmp_path / "killed") == marks(tmp_path / "calm")


def until(process: "subprocess.Popen[bytes]", folder: Path, units: int) -> None:
    """Wait until some units are finished and a checkpoint of the next is there, or the run has ended."""
    limit = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < limit:
        kept = list((folder / "checkpoints").glob("*.json"))
        if len(kept) >= units and list((folder / "checkpoints").glob("*.pt")):
            return
        time.sleep(0.005)


@pytest.mark.slow
@pytest.mark.recipe
def test_the_command_killed_and_gone_on_with(tmp_path: Path) -> None:
    recipe = tmp_path / "tiny.yaml"
    settings = {**TINY, **KEPT_OFTEN, "epochs": 6}
    recipe.write_text("".join(f"{key}: {value}\n" for key, value in settings.items()))
    command = [sys.executable, "-m", "limbeck.cli", "run"]

    def begin(*words: str) -> "subprocess.Popen[bytes]":
        return subprocess.Popen([*command, *words, "--quiet"], stdout=subprocess.DEVNULL, cwd=tmp_path)

    assert begin(str(recipe), "--out", "calm").wait(300) == 0
    process = begin(str(recipe), "--out", "killed")
    for units in (0, 2, 5):
        until(process, tmp_path / "killed", units)
        time.sleep(CHOICE.uniform(0, 0.05))
        process.send_signal(signal.SIGKILL)
        assert process.wait(10) in (0, -signal.SIGKILL)
        assert not (tmp_path / "killed" / "result.json").exists()
        process = begin("--resume", "killed")
    assert process.wait(300) == 0
    assert marks(tmp_path / "killed") == marks(tmp_path / "calm")


@pytest.mark.slow
def test_the_command_stopped_by_the_user_says_how_to_go_on(tmp_path: Path) -> None:
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text("".join(f"{key}: {value}\n" for key, value in {**TINY, **KEPT_OFTEN, "epochs": 200}.items()))
    command = [sys.executable, "-m", "limbeck.cli", "run", str(recipe), "--out", "run", "--quiet"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    until(process, tmp_path / "run", 0)  # type: ignore[arg-type]
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert said.strip().splitlines()[-1] == "limbeck: stopped; go on with `limbeck run --resume run`."
    assert "Traceback" not in said
