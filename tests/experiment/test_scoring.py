"""Scoring a finished run: its files say what the library says, killed at any write it goes on to the same bytes."""

import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from torch.testing import assert_close

from limbeck.core.errors import RunError, UsageError
from limbeck.experiment import score_files
from limbeck.experiment.folder import OWN, held
from limbeck.experiment.kept import kept
from limbeck.experiment.score_files import ScoreFiles
from limbeck.experiment.score_tables import Wanted, foretold
from limbeck.experiment.scoring import Scored, score_run
from limbeck.influence.curvature.exact import Exact
from limbeck.influence.curvature.identity import Identity
from limbeck.influence.curvature.solver import Problem, Solver
from limbeck.influence.explain import explain, removal_curve
from limbeck.influence.matrix import score_matrix, self_influence
from limbeck.influence.scores import score
from limbeck.influence.vectors import Vector, scaled

ALL = Wanted(matrix=True, own=True, explain=2, groups="true_label", tile=20)
ENDINGS = (".parquet", ".matrix.parquet", ".groups.parquet", ".json")
SOLVER = Identity()


@pytest.fixture(scope="module")
def calm(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Scored]:
    """The folder of a scoring of all that can be asked for, and what it said."""
    home: Path = tmp_path_factory.mktemp("calm")
    return home, score_run(folder, home / "s.parquet", SOLVER, ALL)


def names(home: Path) -> set[str]:
    return {path.name for path in home.iterdir()}


def contents(home: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in home.iterdir()}


def test_the_files_hold_what_the_library_gives(folder: Path, calm: tuple[Path, Scored]) -> None:
    home, found = calm
    assert names(home) == {f"s{ending}" for ending in ENDINGS}
    assert {f"scores{ending}" for ending in (*ENDINGS, ".parts")} <= OWN
    student = kept(folder)
    train, queries = list(student.train), [student.data.queries]
    own = (student.student, student.task, train)
    table = pq.read_table(home / "s.parquet").to_pydict()
    mean = score(*own, queries, SOLVER, seed=student.data.seed)
    assert table["index"] == student.rows.tolist() == mean.index.tolist()
    assert_close(torch.tensor(table["score"]), mean.phi)
    assert_close(torch.tensor(table["self_influence"]), self_influence(*own, SOLVER).value)
    (whole,) = score_matrix(*own, queries, SOLVER)
    matrix = pq.read_table(home / "s.matrix.parquet").to_pydict()
    assert matrix["query"] == student.data.queries.index.tolist()
    assert_close(torch.tensor(matrix["phi"]), whole.phi)
    assert_close(torch.tensor(matrix["query_loss"]), whole.query_loss)
    told = explain([whole], k=2)
    for place in (0, 7, 500):
        for column, part in (("hurts", told.hurts), ("helps", told.helps)):
            assert table[column][place] == [query for query in part[place].tolist() if query >= 0]
        assert table["hurts_by"][place] == pytest.approx([by for by in told.hurts_by[place].tolist() if by > 0], rel=1e-4)
    assert found.count == len(table["index"])
    assert table["rank"][table["score"].index(max(table["score"]))] == 1


def test_the_matrix_has_a_row_group_for_each_tile(calm: tuple[Path, Scored]) -> None:
    file = pq.ParquetFile(calm[0] / "s.matrix.parquet")
    assert [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)] == [20, 20, 10]


def test_groups_and_summary(calm: tuple[Path, Scored]) -> None:
    home, found = calm
    table, groups = (pq.read_table(home / name).to_pydict() for name in ("s.parquet", "s.groups.parquet"))
    threes = [phi for phi, label in zip(table["score"], table["true_label"], strict=True) if label == 3]
    place = groups["group"].index(3)
    assert (groups["samples"][place], groups["name"][place]) == (len(threes), "3")
    assert groups["score"][place] == pytest.approx(sum(threes))
    summary = json.loads((home / "s.json").read_text())
    curve = removal_curve(torch.tensor(table["score"]))
    assert [one["count"] for one in summary["removal"]] == [round(len(curve) * share) for share in (0.01, 0.02, 0.05, 0.1)]
    for one in summary["removal"]:
        assert one["predicted"] == pytest.approx(float(curve[one["count"]]))
    assert summary["sentence"] == found.sentence
    assert "Without its 54 most harmful of 1082 samples" in found.sentence
    assert "the size less" in found.sentence
    assert (summary["queries"], summary["made_of"]["solver"]) == (50, "Identity()")


@pytest.mark.parametrize(
    "phi, said",
    [
        ([0.5, -3.5, -3.5, -3.5], "since only 1 of all harm; x."),
        ([-1.0, -2.0, -3.0, -4.0], "since none of all harms; x."),
        ([3.0, 2.0, -1.0, -1.0], "Without its 2 most harmful of 4 samples"),
    ],
)
def test_samples_are_called_harmful_only_where_it_does_good_to_remove_them(phi: list[float], said: str) -> None:
    assert said in foretold(torch.tensor(phi), 2, 0.5, "x")


@pytest.mark.slow
def test_killed_at_every_write_it_goes_on_to_the_same_bytes(
    folder: Path, calm: tuple[Path, Scored], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flush, writes, killed = os.fsync, 0, 0

    def blown(handle: int) -> None:
        nonlocal writes
        writes += 1
        if writes == max(2, killed - 4):  # one more part each time; then one more of the files, which are made of the parts anew
            raise KeyboardInterrupt
        flush(handle)

    monkeypatch.setattr("limbeck.core.files.os.fsync", blown)
    while killed < 10:
        writes = 0
        try:
            score_run(folder, tmp_path / "s.parquet", SOLVER, ALL, resume=killed > 0)
            break
        except KeyboardInterrupt:
            killed += 1
            assert not (tmp_path / "s.json").exists()
            assert not any(name.endswith(".partial") for name in names(tmp_path))
    assert killed == 9  # at two columns, three tiles and four files
    assert contents(tmp_path) == contents(calm[0])


def test_a_solver_that_draws_draws_the_same_when_resumed(folder: Path, tmp_path: Path) -> None:
    solver, wanted = Drawing(), Wanted(matrix=True, tile=25)
    score_run(folder, tmp_path / "a.parquet", solver, wanted)
    made_of = json.loads((tmp_path / "a.json").read_text())["made_of"]
    home = ScoreFiles(tmp_path / "b.parquet")
    with home.opened(made_of, resume=False, replace=False):
        pass
    with suppress(_Enough):
        score_run(folder, home.out, solver, wanted, resume=True, progress=_Until("queries 26"))
    assert {path.name for path in home.parts.iterdir()} == {"begun.json", "scores.parquet", "tile-000000.parquet"}
    score_run(folder, home.out, solver, wanted, resume=True)
    for ending in (".parquet", ".matrix.parquet", ".json"):
        assert (tmp_path / f"a{ending}").read_bytes() == (tmp_path / f"b{ending}").read_bytes()


class Drawing(Solver):
    """As solvers that work on samples drawn anew for every direction."""

    def solve(self, v: Vector, problem: Problem) -> Vector:
        return scaled(v, float(torch.rand((), generator=problem.generator)))

    def __repr__(self) -> str:
        return "Drawing()"


class _Enough(Exception):  # noqa: N818 - no error
    """Stops a scoring."""


class _Until:
    """Progress that stops where a unit of this name begins."""

    def __init__(self, name: str) -> None:
        self.name = name

    def start(self, total_units: int) -> None:
        assert total_units == 3

    def unit(self, name: str, steps: int) -> None:
        if name.startswith(self.name):
            raise _Enough

    def advance(self, steps: int) -> None:
        pass

    def done(self) -> None:
        pass


@pytest.fixture
def begun(folder: Path, tmp_path: Path) -> ScoreFiles:
    """A scoring that stopped with its first part done."""
    home = ScoreFiles(tmp_path / "s.parquet")
    with pytest.raises(_Enough):
        score_run(folder, home.out, SOLVER, Wanted(own=True), progress=_Stop())
    return home


class _Stop(_Until):
    def __init__(self) -> None:
        super().__init__("self-influence")

    def start(self, total_units: int) -> None:
        assert total_units == 2


def changed(key: str, value: object) -> Callable[[ScoreFiles], None]:
    def change(home: ScoreFiles) -> None:
        path = home.parts / score_files.BEGUN
        path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (changed("run", "abc"), "was begun with another run; ask for the same"),
        (changed("limbeck", "0.0.1"), r"was begun with limbeck=0\.0\.1, not "),
        (changed("torch", "1.0"), r"was begun with torch=1\.0, not "),
        (changed("solver", "EKFAC(damping=0.1)"), r"was begun with solver=EKFAC\(damping=0\.1\), not Identity\(\); "),
        (changed("settings", {"damping": 0.2}), r"was begun with settings=\{'damping': 0\.2\}, not \{\}; "),
        (changed("explain", 3), "was begun with explain=3, not 0"),
        (lambda home: (home.parts / score_files.BEGUN).write_text("{"), "cannot be read; begin anew with --replace"),
        (lambda home: (home.parts / score_files.BEGUN).unlink(), "there is no scoring of .* to go on with"),
    ],
)
def test_what_is_not_the_same_is_not_gone_on_with(
    folder: Path, begun: ScoreFiles, change: Callable[[ScoreFiles], None], said: str
) -> None:
    change(begun)
    before = contents(begun.parts)
    with pytest.raises(UsageError, match=said):
        score_run(folder, begun.out, SOLVER, Wanted(own=True), resume=True)
    assert contents(begun.parts) == before


@pytest.mark.slow
def test_what_is_there_is_kept_unless_told(folder: Path, begun: ScoreFiles) -> None:
    with pytest.raises(
        UsageError, match=r"s\.parts is there already; go on with it by --resume, or write over it with --replace"
    ):
        score_run(folder, begun.out, SOLVER)
    with held(begun.parts), pytest.raises(UsageError, match="another scoring is writing to"):
        score_run(folder, begun.out, SOLVER, replace=True)
    (begun.parts / "mine.txt").write_text("x")
    with pytest.raises(UsageError, match="holds more than the parts of a scoring"):
        score_run(folder, begun.out, SOLVER, replace=True)
    (begun.parts / "mine.txt").unlink()
    score_run(folder, begun.out, SOLVER, ALL, replace=True)
    assert names(begun.out.parent) == {f"s{ending}" for ending in ENDINGS}
    before = contents(begun.out.parent)
    with pytest.raises(UsageError, match=r"s\.parquet is there already; give another --out"):
        score_run(folder, begun.out, SOLVER)
    again = score_run(folder, begun.out, SOLVER, ALL, resume=True)  # all is done
    assert contents(begun.out.parent) == before
    assert set(again.files) == {"scores", "matrix", "groups", "summary"}
    score_run(folder, begun.out, SOLVER, replace=True)
    assert names(begun.out.parent) == {"s.parquet", "s.json"}  # the older matrix would not belong to these scores


def test_a_damaged_part_is_named(folder: Path, begun: ScoreFiles) -> None:
    path = begun.parts / "scores.parquet"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    for broken in (bytes(content), content[:100]):
        path.write_bytes(broken)
        with pytest.raises(RunError, match=r"the part .*scores\.parquet is damaged .*; delete it and go on with --resume"):
            score_run(folder, begun.out, SOLVER, Wanted(own=True), resume=True)
    path.unlink()
    assert score_run(folder, begun.out, SOLVER, Wanted(own=True), resume=True).count == 1082


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"explain": -1}, "--explain must be a whole number of at least 0"),
        ({"groups": "colour"}, "--groups must be one of label, true_label, domain, got 'colour'"),
        ({"tile": 0}, "--tile must be a whole number of at least 1"),
        ({"keep": "int4"}, "keep must be"),
    ],
)
def test_wishes_out_of_range(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Wanted(**wrong)


def test_nothing_is_left_of_what_is_refused(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Exact, "LIMIT", 10)
    for out, solver, wanted, said in (
        ("s.csv", SOLVER, Wanted(), r"--out must end in \.parquet, got .*s\.csv"),
        ("s.parquet", SOLVER, Wanted(groups="domain"), r"Digits\(.*\) has no domain for each sample"),
        ("s.parquet", Exact(), Wanted(), "Tapped cannot be scored: Exact: the model has 610 trainable parameters"),
    ):
        with pytest.raises(UsageError, match=said):
            score_run(folder, tmp_path / out, solver, wanted)
    assert names(tmp_path) == set()
