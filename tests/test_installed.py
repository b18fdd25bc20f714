"""Methods of other installed packages: listed, named in recipes, checked; and never in the way when they are broken."""

import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from limbeck import catalogue
from limbeck.cli import main
from limbeck.experiment.recipe import load
from limbeck.testing import checks

TERM = '''
from limbeck import Term
from limbeck.catalogue import Row
from limbeck.core.term import same_classes, teacher_of
from limbeck.functional.divergences import full_precision, token_mean


class Gap(Term):
    """Half the squared distance of the logits.

    >>> Gap()
    Gap()
    """

    needs = frozenset({"teacher"})

    def forward(self, views):
        """One value per sample, [B]."""
        student, teacher = full_precision(views.student.logits), full_precision(teacher_of(views, "Gap").logits)
        same_classes(student, teacher, "Gap")
        return token_mean((student - teacher).square().sum(-1) / 2, views.batch.mask)


ROWS = (Row("Gap", "terms", "extra_one:Gap", "Half the squared distance of the logits"),)
'''
Install = Callable[[str, str], None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Installs a package of one module, as far as Python sees it: the module and the record beside it."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))
    names: list[str] = []

    def put(name: str, code: str) -> None:
        (site / f"{name}.py").write_text(code)
        record = site / f"{name}-1.0.dist-info"
        record.mkdir()
        (record / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (record / "entry_points.txt").write_text(f"[limbeck.methods]\nmethods = {name}:ROWS\n")
        names.append(name)
        catalogue.added.cache_clear()

    yield put
    catalogue.added.cache_clear()
    for name in names:
        sys.modules.pop(name, None)


def test_a_package_adds_a_term_that_is_listed_named_and_checked(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    install("extra_one", TERM)
    (row,) = catalogue.added()
    assert (row.name, row.package) == ("Gap", "extra_one")
    assert main(["list", "terms", "--json"]) == 0
    listed = {line["name"]: line["package"] for line in json.loads(capsys.readouterr().out)}
    assert listed["Gap"] == "extra_one"
    assert listed["KD"] == "limbeck"
    recipe = load("digits", settings=["objective=Gap() * 0.1 + CE()"])
    assert repr(recipe.build().objective) == "Gap() * 0.1 + CE()"
    found = checks([row])
    assert len(found) > 15
    for check in found:
        check()
    assert "Gap" not in catalogue.methods_page()


@pytest.mark.parametrize(
    "code, words",
    [
        ("raise RuntimeError('no')", "the package extra_two could not be loaded (RuntimeError: no)"),
        ("ROWS = 'KD'", "the package extra_two must offer a sequence of limbeck.catalogue.Row"),
        (
            "from limbeck.catalogue import Row\nROWS = [Row('KD', 'terms', 'extra_two:KD', 'Mine')]",
            "the package extra_two names a term 'KD', but that is a term of limbeck already",
        ),
    ],
    ids=["broken", "no rows", "a name that is taken"],
)
def test_a_package_that_cannot_be_taken_is_left_out_with_one_warning(install: Install, code: str, words: str) -> None:
    install("extra_two", code)
    with pytest.warns(UserWarning, match=f"^{re.escape(words)}") as said:
        assert catalogue.added() == ()
    assert len(said) == 1
    assert catalogue.everything() == catalogue.ROWS


def test_a_record_in_the_current_folder_runs_no_code(install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install("extra_three", "raise SystemExit('run')")
    monkeypatch.chdir(tmp_path / "site")
    assert catalogue.added() == ()


def test_a_row_whose_class_is_missing_says_whose_it_is(install: Install) -> None:
    from limbeck.core.errors import UsageError

    install("extra_four", "from limbeck.catalogue import Row\nROWS = [Row('Lost', 'terms', 'extra_four:Lost', 'Gone')]")
    (row,) = catalogue.added()
    with pytest.raises(UsageError, match=r"Lost of the package extra_four cannot be loaded"):
        row.resolve()
