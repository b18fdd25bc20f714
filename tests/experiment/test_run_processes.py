"""A whole run in two processes writes one folder, with the figures of one process; whatever is off, all of them end."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from run_makers import FILES, tiny
from training_processes import together

from limbeck.core.errors import LimbeckError
from limbeck.experiment.run import run

pytestmark = [pytest.mark.dist, pytest.mark.slow]
CHANGES = {"seeds": 1, "student": "MLP(width=8, depth=1)", "compare": [], "step": "Simultaneous()", "epochs": 1}


def both(folder: Path) -> dict[str, Any]:
    """Runs, then refusals: a batch that does not divide, a folder that is taken; each process says what it met."""
    content = run(tiny(**CHANGES), folder / "two").content
    again = run(tiny(**CHANGES), folder / "two", resume=True).content
    said = []
    for options, changes in (({}, {}), ({"resume": True}, {"epochs": 2}), ({"replace": True}, {"batch_size": 99})):
        try:
            run(tiny(**{**CHANGES, **changes}), folder / "two", **options)
        except LimbeckError as error:
            said.append(str(error))
    return {"content": json.dumps(content), "again": json.dumps(again), "said": said}


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("processes")
    run(tiny(**CHANGES), folder / "one")
    found = together(both, folder, folder=folder)
    assert all(isinstance(one, dict) for one in found), found
    return folder, found


def test_one_folder_is_written_by_the_first_process(ran: tuple[Path, list[dict[str, Any]]]) -> None:
    folder, found = ran
    assert {path.name for path in (folder / "two").iterdir()} == FILES
    assert json.dumps(json.loads((folder / "two" / "result.json").read_text())) == found[0]["content"]
    assert found[0]["content"] == found[1]["content"] == found[0]["again"] == found[1]["again"]


def test_the_figures_are_those_of_one_process(ran: tuple[Path, list[dict[str, Any]]]) -> None:
    folder, found = ran
    one, two = json.loads((folder / "one" / "result.json").read_text()), json.loads(found[0]["content"])
    for name, arm in one["arms"].items():
        for figure, values in arm["per_seed"].items():
            assert two["arms"][name]["per_seed"][figure] == pytest.approx(values, abs=1e-4), (name, figure)
    for figure, values in one["weights"].items():
        assert two["weights"][figure] == pytest.approx(values, abs=1e-3), figure
    assert len(pq.read_table(folder / "two" / "samples.parquet")) == one["data"]["counts"]["train"]


def test_all_processes_end_when_one_has_trouble(ran: tuple[Path, list[dict[str, Any]]]) -> None:
    first, second = (one["said"] for one in ran[1])
    assert [len(first), len(second)] == [3, 3]
    assert "holds a run already" in first[0]
    assert "another recipe (epochs differs)" in first[1]
    assert second[0] == second[1] == "the first process could not open the run's folder; its own message says why."
    assert first[2] == second[2] == "batch_size: 99 samples do not divide among 2 processes; choose a multiple."
