"""`limbeck doctor`."""

import pytest

from limbeck.cli import doctor, main


def test_it_shows_the_machine_and_passes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    shown = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert {"limbeck", "python", "torch", "device", "cores", "memory", "disk", "vision", "self-test"} <= set(shown)
    assert shown["self-test"].startswith("passed")


def test_a_missing_extra_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_installed", lambda name: name != "timm")
    assert dict(doctor.extras())["vision"] == "missing timm: pip install 'limbeck[vision]'"
