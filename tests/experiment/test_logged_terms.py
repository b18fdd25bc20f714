"""What a run keeps of its terms: means, what they add to the loss, shares of the gradient, and a word on faint ones."""

from pathlib import Path

import pytest
from run_makers import rows_of, tiny

from limbeck.experiment.run import run

FAINT = "made less than 1% of the student's gradient over the run"


def test_rows_hold_means_and_parts_of_the_loss(tmp_path: Path) -> None:
    found = run(tiny(objective="KD(T=2) * 0.5 + CE() * 2", compare=["uniform"], seeds=1), tmp_path / "run")
    rows = [row for row in rows_of(tmp_path / "run") if row["arm"] == "uniform" and row["phase"] == "train"]
    for row in rows:
        assert row["weighted"] == pytest.approx({"KD": 0.5 * row["terms"]["KD"], "CE": 2 * row["terms"]["CE"]}, rel=1e-5)
        assert sum(row["weighted"].values()) == pytest.approx(row["loss"], rel=1e-5)
    assert ["shares" in row for row in rows] == [False, True]  # a run of few steps is looked at once, at its end
    assert sum(rows[-1]["shares"].values()) == pytest.approx(1)
    assert not any(FAINT in event["what"] for event in found.content["events"])


def test_a_lone_term_needs_no_look(tmp_path: Path) -> None:
    run(tiny(objective="CE()", compare=["no_kd"], seeds=1), tmp_path / "run")
    assert not any("shares" in row for row in rows_of(tmp_path / "run"))


def test_a_faint_term_and_one_without_coefficient_are_told_of(tmp_path: Path) -> None:
    objective = "KD(T=2) * 0.00001 + CE() + CE() * 0"
    found = run(tiny(objective=objective, compare=["uniform"], seeds=1), tmp_path / "run").content
    told = [event["what"] for event in found["events"] if event["arm"] == found["main"]]
    assert [what for what in told if FAINT in what] == [what for what in told if what.startswith("KD made")]
    assert sum("CE#2 has the coefficient 0" in what for what in told) == 1
    assert "Something happened while the main arm was trained: see the events." in found["warnings"]
