"""Imports point one way (ARCHITECTURE.md): a room knows only rooms to its left, nothing goes in circles, and torch comes late."""

import ast
import subprocess
import sys
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "limbeck"

GROUPS: tuple[tuple[str, ...], ...] = (
    ("core",),
    ("functional",),
    ("models", "engine", "evaluation"),
    ("align", "students", "teachers", "transforms", "data", "influence", "balancing", "mixtures"),
    ("losses", "weighting"),
    ("distiller",),
    ("training",),
    ("llm", "loops"),
    ("catalogue",),
    ("testing", "experiment"),
    ("report",),
    ("cli",),
)
"""From left to right; rooms of one group do not import one another."""

PLACE = {room: place for place, group in enumerate(GROUPS) for room in group}
ALLOWED_TOO = {("limbeck.teachers.single", "limbeck.align.taps")}
CIRCLE = {"limbeck.core.term", "limbeck.core.objective"}
"""The algebra of terms and objectives is one idea in two files."""


def modules() -> dict[str, Path]:
    found = {}
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


@cache
def imports_of(name: str) -> frozenset[str]:
    """Every module of the package that a module imports, also inside functions and for type checkers only."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(MODULES[name].read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} imports relatively"
            for alias in node.names:
                deeper = f"{node.module}.{alias.name}"
                found.add(deeper if deeper in MODULES else str(node.module))
    return frozenset(one for one in found if one.split(".")[0] == "limbeck" and one not in ("limbeck", name))


def room(module: str) -> str:
    return module.split(".")[1]


INSIDE = sorted(name for name in MODULES if name != "limbeck")


def test_there_are_no_rooms_without_a_place() -> None:
    assert {room(name) for name in INSIDE} <= PLACE.keys()


def test_imports_point_to_the_left() -> None:
    wrong = []
    for name in INSIDE:
        for other in imports_of(name):
            if other not in MODULES:
                wrong.append(f"{name} imports {other}, which is not there")
            elif not (PLACE[room(other)] < PLACE[room(name)] or room(other) == room(name) or (name, other) in ALLOWED_TOO):
                wrong.append(f"{name} imports {other}, which is not to its left")
    assert not wrong, "\n".join(wrong)


def test_nothing_goes_in_circles() -> None:
    graph = {name: imports_of(name) for name in INSIDE}
    for name in CIRCLE:
        graph[name] -= CIRCLE
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(error.args[1]))


def test_every_door_is_used() -> None:
    """An exception to the order that nobody needs any more is removed."""
    for name, other in ALLOWED_TOO:
        assert other in imports_of(name)
    assert imports_of("limbeck.core.term") & CIRCLE


def test_only_one_room_hooks_features() -> None:
    """Features are read in align/; the curvature of layers has hooks of its own."""
    hooking = {name for name, path in MODULES.items() if "register_forward_hook" in path.read_text("utf-8")}
    assert {room(name) for name in hooking} <= {"align", "influence"}


MAIN = "from limbeck.cli import main; main"


@pytest.mark.parametrize("words", [f"{MAIN}(['--help'])", f"{MAIN}(['list', 'methods'])", "import limbeck.cli.run"])
def test_torch_is_not_imported_before_it_is_needed(words: str) -> None:
    """How long it takes to start is for benchmarks/start.py to say."""
    heavy = ("torch", "sklearn", "scipy", "pyarrow", "plotly", "accelerate", "torchvision")
    code = f"import sys\n{words}\nprint('HEAVY', *[name for name in {heavy} if name in sys.modules])"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert ended.stdout.splitlines()[-1].split() == ["HEAVY"]
