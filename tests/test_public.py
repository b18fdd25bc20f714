"""The public names: all there, seen by type checkers too, and torch is not loaded until one of them is used."""

import ast
import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import limbeck
from limbeck.catalogue import ROWS

PLACES = limbeck._PLACES
NOT_EXPORTED = {"Python", "SGD", "Adam", "AdamW", "Constant", "Cosine", "Steps"}
"""Words of recipes only: the door to a user's own code, and what torch.optim offers in Python."""


@pytest.mark.parametrize("name", PLACES)
def test_every_name_resolves_to_what_its_place_holds(name: str) -> None:
    module, _, attribute = PLACES[name].partition(":")
    found = importlib.import_module(module)
    assert getattr(limbeck, name) is (getattr(found, attribute) if attribute else found)
    assert getattr(limbeck, name).__doc__


def test_type_checkers_see_the_same_names_in_the_same_places() -> None:
    tree = ast.parse(Path(limbeck.__file__).read_text(encoding="utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    imported = {
        alias.asname or alias.name: f"{node.module}:{alias.name}"
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    renamed = {ast.unparse(n.targets[0]): ast.unparse(n.value) for n in block.body if isinstance(n, ast.Assign)}
    for public, private in renamed.items():
        imported[public] = imported.pop(private)
    assert imported.pop("errors") == "limbeck.core:errors"
    assert imported == {name: place for name, place in PLACES.items() if name != "errors"}


def test_everything_in_the_catalogue_is_public() -> None:
    for row in ROWS:
        if row.name not in NOT_EXPORTED:
            assert PLACES.get(row.name) == row.path, f"add {row.name} to src/limbeck/__init__.py"


def test_no_public_name_is_hidden_by_a_room_of_the_same_name() -> None:
    rooms = {module.name for module in pkgutil.iter_modules(limbeck.__path__)}
    assert not rooms & set(PLACES)


def test_dir_shows_them_and_an_unknown_name_is_an_attribute_error() -> None:
    assert set(PLACES) < set(dir(limbeck))
    with pytest.raises(AttributeError, match="no attribute 'KDD'"):
        _ = limbeck.KDD


def fresh(code: str) -> str:
    """What a new Python says."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("work", ["import limbeck", "from limbeck.cli import main; main(['--help'])"])
def test_it_starts_without_torch(work: str) -> None:
    """How long it takes is for benchmarks/start.py to say."""
    code = f"import sys; {work}; print('torch' in sys.modules)"
    assert fresh(code).split()[-1] == "False"


def test_the_list_of_methods_needs_no_torch() -> None:
    code = "import sys; from limbeck.cli import main; main(['list', 'methods']); print('torch' in sys.modules)"
    assert fresh(code).split()[-1] == "False"
