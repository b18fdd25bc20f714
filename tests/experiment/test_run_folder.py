"""The run's folder: whose it is, what may be written over, and who may write."""

import errno
import json
import math
import multiprocessing
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from limbeck.core.errors import RunError, UsageError
from limbeck.experiment import folder as files

HEAD = "# The recipe as it was run, with every setting written out.\n"
RECIPE = HEAD + "name: tiny\nepochs: 3\n"


def start(folder: Path, recipe: str = RECIPE, *, resume: bool = False, replace: bool = False) -> None:
    with files.opened(folder, recipe, resume=resume, replace=replace):
        pass


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def finished(folder: Path) -> Path:
    """A folder that looks like a finished run."""
    start(folder)
    for name in files.OWN - {files.RECIPE, files.ENVIRONMENT, files.CHECKPOINTS}:
        (folder / name).write_text("old")
    (folder / files.CHECKPOINTS).mkdir()
    (folder / files.CHECKPOINTS / "seed0-teacher.json").write_text("{}")
    return folder


def test_a_new_folder_has_recipe_and_environment(tmp_path: Path) -> None:
    start(tmp_path / "deep" / "run")
    assert names(tmp_path / "deep" / "run") == {"recipe.yaml", "environment.json"}
    assert (tmp_path / "deep" / "run" / "recipe.yaml").read_text() == RECIPE


def test_the_environment_is_what_the_guide_says(tmp_path: Path) -> None:
    start(tmp_path / "run")
    found = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert {"versions", "python", "platform", "threads", "git_commit", "started"} <= found.keys()
    assert "torch" in found["versions"]


def test_an_empty_folder_may_be_used(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    start(tmp_path / "run")
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / ".recipe.yaml.partial").write_text("name")
    start(tmp_path / "half")
    assert "recipe.yaml" in names(tmp_path / "half")


def test_a_run_that_is_there_is_kept(tmp_path: Path) -> None:
    folder = finished(tmp_path / "run")
    with pytest.raises(UsageError, match=r"holds a run already; go on with --resume .*run, or write over it with --replace"):
        start(folder)
    assert names(folder) == files.OWN
    assert (folder / "result.json").read_text() == "old"


def test_a_run_is_replaced_when_told_to(tmp_path: Path) -> None:
    folder = finished(tmp_path / "run")
    start(folder, HEAD + "name: other\n", replace=True)
    assert names(folder) == {"recipe.yaml", "environment.json"}
    assert "other" in (folder / "recipe.yaml").read_text()


@pytest.mark.parametrize("strange", ["notes.txt", "src", ".git"])
def test_replacing_never_removes_what_no_run_wrote(tmp_path: Path, strange: str) -> None:
    folder = finished(tmp_path / "run")
    (folder / strange).mkdir()
    (folder / strange / "precious").write_text("x")
    with pytest.raises(UsageError, match=f"holds '{strange}' beside a run's own files; move it away"):
        start(folder, replace=True)
    assert names(folder) == files.OWN | {strange}
    assert (folder / strange / "precious").read_text() == "x"


@pytest.mark.parametrize("replace", [False, True])
def test_a_folder_of_ones_own_is_never_taken_for_a_run(tmp_path: Path, replace: bool) -> None:
    """A recipe as people write it is not a run's."""
    (tmp_path / "recipe.yaml").write_text("name: mine\ndata: Digits()\n")
    with pytest.raises(UsageError, match="is there already and is no run folder"):
        start(tmp_path, replace=replace)
    assert names(tmp_path) == {"recipe.yaml"}
    assert "mine" in (tmp_path / "recipe.yaml").read_text()


def test_a_file_in_the_folders_place(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("x")
    for replace in (False, True):
        with pytest.raises(UsageError, match="is there already and is no run folder"):
            start(tmp_path / "run", replace=replace)
    with pytest.raises(RunError, match="could not make the folder"):
        start(tmp_path / "run" / "deeper")
    assert (tmp_path / "run").read_text() == "x"


def test_replacing_follows_no_link(tmp_path: Path) -> None:
    folder, outside = finished(tmp_path / "run"), tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("x")
    shutil.rmtree(folder / "checkpoints")
    (folder / "checkpoints").symlink_to(outside)
    start(folder, replace=True)
    assert (outside / "precious").read_text() == "x"
    assert not (folder / "checkpoints").exists()


def test_resuming_goes_on_with_the_same_recipe_only(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with pytest.raises(UsageError, match=r"--resume: .* is no run folder, it has no recipe\.yaml"):
        start(folder, resume=True)
    assert not folder.exists()
    start(folder)
    before = (folder / "environment.json").read_bytes()
    start(folder, resume=True)
    assert (folder / "environment.json").read_bytes() == before
    for other, key in ((RECIPE.replace("3", "4"), "epochs"), (HEAD + "name: tiny\nepochs: 3\nseeds: 1\n", "seeds")):
        with pytest.raises(UsageError, match=rf"begun with another recipe \({key} differs\)"):
            start(folder, other, resume=True)
    with pytest.raises(UsageError, match="begun with another recipe"):
        start(folder, HEAD + "name: tiny\n", resume=True)
    assert (folder / "recipe.yaml").read_text() == RECIPE


def test_two_runs_never_write_to_one_folder(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with files.opened(folder, RECIPE, resume=False, replace=False):
        (folder / "result.json").write_text("mine")
        for options in ({"resume": True}, {"replace": True}):
            with pytest.raises(UsageError, match=r"another run is writing to .* now; wait for its end"):
                start(folder, **options)
        assert (folder / "result.json").read_text() == "mine"
    start(folder, resume=True)


def hold(folder: Path, ready: object) -> None:
    with files.opened(folder, RECIPE, resume=False, replace=False):
        ready.set()
        multiprocessing.Event().wait(60)


@pytest.mark.skipif(torch.cuda.is_available(), reason="forks")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_killed_process_holds_nothing(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    process = context.Process(target=hold, args=(tmp_path / "run", ready))
    process.start()
    assert ready.wait(30)
    with pytest.raises(UsageError, match="another run is writing"):
        start(tmp_path / "run", resume=True)
    process.kill()
    process.join()
    start(tmp_path / "run", resume=True)


def test_too_little_room_is_told_before_anything_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = finished(tmp_path / "run")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=3 * 2**20))
    with pytest.raises(RunError, match="has 3 MB free, a run needs at least 64 MB"):
        start(folder, replace=True)
    assert (folder / "result.json").read_text() == "old"


def test_a_crash_while_an_old_run_is_removed_leaves_no_finished_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its result goes first and its recipe last, so that what is left can be replaced again."""
    folder, removed = finished(tmp_path / "run"), []
    original = Path.unlink

    def unlink(self: Path, missing_ok: bool = False) -> None:
        if len(removed) == 3:
            raise OSError(errno.EIO, "Input/output error")
        removed.append(self.name)
        original(self, missing_ok)

    monkeypatch.setattr(Path, "unlink", unlink)
    with pytest.raises(RunError, match=r"could not remove the older run in .*: Input/output error"):
        start(folder, replace=True)
    monkeypatch.undo()
    assert removed[0] == "result.json"
    assert "recipe.yaml" in names(folder)
    start(folder, replace=True)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(RunError, match="could not make the folder"):
        start(tmp_path / "run")


def test_figures_that_are_no_numbers_are_never_written(tmp_path: Path) -> None:
    for write, content in ((files.write_json, {"a": math.nan}), (files.write_lines, [{"a": 1}, {"a": math.inf}])):
        with pytest.raises(RunError, match=r"a figure for a\.json is NaN or infinite: training has diverged"):
            write(tmp_path / "a.json", content)
    assert names(tmp_path) == set()


def test_what_is_written_is_read(tmp_path: Path) -> None:
    content = {"a": [1, 0.1, None, "ß <b>"], "b": {"c": True}}
    files.write_json(tmp_path / "a.json", content)
    assert files.read_json(tmp_path / "a.json") == content
    for damaged in ("{", "[1]", ""):
        (tmp_path / "a.json").write_text(damaged)
        with pytest.raises(RunError, match=r"a\.json"):
            files.read_json(tmp_path / "a.json")
    with pytest.raises(RunError, match="cannot be read"):
        files.read_json(tmp_path / "none.json")
