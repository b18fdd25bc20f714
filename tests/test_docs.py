"""The documents say what is so: examples run, links lead somewhere, commands and rooms exist."""

import doctest
import re
import shlex
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
import typer

from limbeck.catalogue import Row
from limbeck.cli.app import app
from limbeck.experiment.arms import TITLES
from limbeck.experiment.recipe import Recipe, load
from limbeck.losses.logits import kd
from limbeck.testing import checks

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def page(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    return [block for kind, block in BLOCK.findall(text) if kind == language]


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


EXAMPLES = [path for path in PAGES if re.search(r"^>>>", path.read_text(encoding="utf-8"), re.MULTILINE)]


@pytest.mark.parametrize("path", EXAMPLES, ids=named)
def test_examples_run(path: Path) -> None:
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        found = doctest.testfile(str(path), module_relative=False, encoding="utf-8")
    finally:
        torch.set_num_threads(threads)
    assert found.attempted > 0
    assert found.failed == 0


def test_the_readme_example_is_short() -> None:
    (example,) = [block for block in blocks(page("README.md"), "python") if ">>>" in block]
    assert example.count(">>>") <= 15


def test_every_room_is_on_the_map() -> None:
    text, source = page("ARCHITECTURE.md"), ROOT / "src" / "limbeck"
    rooms = {file.parent for file in source.rglob("*") if file.suffix in {".py", ".yaml"} and file.parent != source}
    files = {file.name for file in source.glob("*.py")}
    for name in sorted({f"{room.relative_to(source).as_posix()}/" for room in rooms} | files):
        assert f"| `{name}` |" in text, f"ARCHITECTURE.md does not name {name}"


@pytest.mark.parametrize("path", PAGES, ids=named)
def test_what_a_page_names_is_there(path: Path) -> None:
    assert_links_lead_somewhere(path)
    assert_commands_and_options_exist(path)
    assert_make_targets_exist(path)


def assert_links_lead_somewhere(path: Path) -> None:
    text = re.sub(r"<!--.*?-->", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("https://", "http://")):
            continue
        file, _, anchor = target.partition("#")
        there = path if not file else (path.parent / file).resolve()
        assert there.exists(), f"{named(path)} links to {target}"
        if anchor:
            titles = re.findall(r"^#+ (.*)$", there.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}, target


def assert_commands_and_options_exist(path: Path) -> None:
    command = typer.main.get_command(app)
    for line in "".join(blocks(path.read_text(encoding="utf-8"), "bash")).splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] != ["limbeck"]:
            continue
        options = {option for parameter in command.commands[words[1]].params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= options, line


def assert_make_targets_exist(path: Path) -> None:
    known = set(re.findall(r"^([a-z-]+):", page("Makefile"), re.MULTILINE))
    text = path.read_text(encoding="utf-8")
    quoted = re.findall(r"`make ([a-z-]+)`", text) + re.findall(r"^make ([a-z-]+)", "".join(blocks(text, "bash")), re.MULTILINE)
    assert set(quoted) <= known


def test_the_guide_names_every_key_and_rival() -> None:
    text = page("docs/guide/recipes.md")
    for name in [*Recipe.model_fields, *TITLES]:
        assert f"`{name}`" in text, name


def test_recipes_in_the_documents_can_be_read(tmp_path: Path) -> None:
    for name in ("README.md", "docs/guide/recipes.md"):
        (text,) = blocks(page(name), "yaml")
        file = tmp_path / "recipe.yaml"
        file.write_text(text, encoding="utf-8")
        assert load(file).expressions()


def test_the_readme_shows_the_recipe_of_the_demo(tmp_path: Path) -> None:
    file = tmp_path / "digits.yaml"
    file.write_text(blocks(page("README.md"), "yaml")[0], encoding="utf-8")
    assert load(file) == load("digits")


def test_the_method_that_contributing_adds_works(monkeypatch: pytest.MonkeyPatch) -> None:
    term, tests = (block for block in blocks(page("CONTRIBUTING.md"), "python") if block.startswith("# ") and ".py\n" in block)
    module = ModuleType(f"{kd.__package__}.logitl2")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(term, "logitl2.py", "exec"), module.__dict__)
    scope: dict[str, object] = {}
    exec(compile(tests, "test_logitl2.py", "exec"), scope)
    functions = [value for name, value in scope.items() if name.startswith("test_")]
    assert len(functions) == 2
    for function in functions:
        assert callable(function)
        function()
    assert repr(module.LogitL2() * 0.5) == "LogitL2() * 0.5"
    for check in checks([Row("LogitL2", "terms", f"{module.__name__}:LogitL2", "Squared distance")]):
        check()


def test_decisions_are_numbered_and_say_context_decision_and_cost() -> None:
    files = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    assert [int(file.name[:4]) for file in files] == list(range(1, len(files) + 1))
    for file in files:
        text = file.read_text(encoding="utf-8")
        assert text.startswith(f"# {file.name[:4]}: ")
        titles = re.findall(r"^## (.*)$", text, re.MULTILINE)
        assert titles == ["Context", "Decision", "What it costs"], file.name
