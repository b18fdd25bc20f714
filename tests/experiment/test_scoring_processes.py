"""Two processes score what one scores; the first one writes, both end where it has trouble."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from run_makers import tiny
from training_processes import together

from limbeck.core.errors import LimbeckError
from limbeck.experiment.run import run
from limbeck.experiment.score_tables import Wanted
from limbeck.experiment.scoring import score_run

pytestmark = [pytest.mark.dist, pytest.mark.slow]
WANTED = Wanted(matrix=True, own=True, explain=2, groups="label", tile=20)
ENDINGS = (".parquet", ".matrix.parquet", ".groups.parquet")


def both(folder: Path) -> dict[str, Any]:
    """A scoring, the same again, which is refused, and another solver, which cannot go on with it."""
    count = score_run(folder / "run", folder / "two.parquet", wanted=WANTED).count
    said = []
    for wanted, resume in ((WANTED, False), (Wanted(), True)):
        try:
            score_run(folder / "run", folder / "two.parquet", wanted=wanted, resume=resume)
        except LimbeckError as error:
            said.append(str(error))
    return {"count": count, "said": said}


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("processes")
    run(tiny(seeds=1, compare=[], epochs=1, teacher_epochs=1), folder / "run")
    score_run(folder / "run", folder / "one.parquet", wanted=WANTED)
    found = together(both, folder, folder=folder)
    assert all(isinstance(one, dict) for one in found), found
    return folder, found


def test_the_numbers_are_those_of_one_process(scored: tuple[Path, list[dict[str, Any]]]) -> None:
    folder, found = scored
    assert found[0]["count"] == found[1]["count"] == 1082
    for ending in ENDINGS:
        one, two = (pq.read_table(folder / f"{name}{ending}").to_pydict() for name in ("one", "two"))
        assert one.keys() == two.keys()
        for column, values in one.items():
            if column == "name":
                assert two[column] == values
                continue
            for ours, theirs in zip(two[column], values, strict=True):
                assert ours == pytest.approx(theirs, rel=1e-6, abs=1e-6), column
    assert not (folder / "two.parts").exists()


def test_all_processes_end_when_the_first_one_refuses(scored: tuple[Path, list[dict[str, Any]]]) -> None:
    first, second = (one["said"] for one in scored[1])
    assert "two.parquet is there already" in first[0]
    assert "was begun with matrix=True, not False" in first[1]
    assert second == ["the first process could not open the run's folder; its own message says why."] * 2
