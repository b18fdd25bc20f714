"""The public names: all there, and seen by type checkers too."""

import ast
import importlib
import pkgutil
from pathlib import Path

import pytest

import limbeck
from limbeck.catalogue import ROWS

PLACES = limbeck._PLACES
NOT_EXPORTED = {"Python", "SGD", "Adam", "AdamW", "Constant", "Cosine", "Steps"}
"""Words of recipes only: the door to a user's own code, and what torch.optim offers in Python."""


def test_every_name_resolves_to_what_its_place_holds() -> None:
    for name, place in PLACES.items():
        module, _, attribute = place.partition(":")
        found = importlib.import_module(module)
        assert getattr(limbeck, name) is (getattr(found, attribute) if attribute else found), name
        assert getattr(limbeck, name).__doc__, name


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
