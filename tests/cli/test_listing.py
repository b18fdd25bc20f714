"""`limbeck list`."""

import json

import pytest
import yaml

from limbeck.catalogue import ROWS
from limbeck.cli import main
from limbeck.cli.listing import KINDS, table


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_one_line_per_name(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", kind]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert main(["list", kind, "--json"]) == 0
    assert [entry["name"] for entry in json.loads(capsys.readouterr().out)] == [line.split()[0] for line in lines]


def test_alone_it_shows_the_kinds(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(KINDS)


def test_a_name_shows_its_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "KD"]) == 0
    assert capsys.readouterr().out.startswith("KD(T=4.0)    term, limbeck.losses.logits.kd.KD\n")
    assert main(["list", "Python"]) == 0
    assert capsys.readouterr().out.count("    data reader, ") == 1
    assert main(["list", "digits"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["teacher"] == "MLP(width=128, depth=1)"


def test_lines_fit_the_screen() -> None:
    lines = [{"name": row.name, "summary": row.summary, "paper": row.paper} for row in ROWS]
    assert max(map(len, table(lines, 60).splitlines())) == 60
    assert "…" not in table(lines, None)
