"""Recipe files: where they are found, and YAML without surprises. Knows nothing of what the keys mean."""

import re
from collections.abc import Hashable, Mapping
from importlib.resources import files
from pathlib import Path

import yaml

from limbeck.core.errors import UsageError, nearest

LARGEST_BYTES = 100_000
SUFFIXES = (".yaml", ".yml")
FLOAT = re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$")


BY_TAGS = (IndexError, KeyError, AttributeError)
"""What PyYAML raises for a tag that its value belies, such as `!!int ""`."""


class _Loader(yaml.SafeLoader):
    """Safe, reads 1e-3 as a number, and refuses what hides mistakes: a key given twice, anchors."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("a recipe has no anchors (* and &)")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, object]:
        names = [name.value for name, _ in node.value if isinstance(name, yaml.ScalarNode)]
        for name in names:
            if names.count(name) > 1:
                raise yaml.YAMLError(f"the key {name!r} is given twice")
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Quotes whatever the loader would read as a number."""


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", FLOAT, list("-+.0123456789"))
_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", FLOAT, list("-+.0123456789"))


def value_of(text: str, where: str) -> object:
    """What a piece of YAML says.

    Raises:
        UsageError: It is no YAML.
    """
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, RecursionError, *BY_TAGS) as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        why = getattr(error, "problem", None) or str(error).partition("\n")[0] or type(error).__name__
        raise UsageError(f"{where}{line}: can't be read as YAML ({why}).") from None


def mapping_of(text: str, where: str) -> dict[str, object]:
    """The keys and values of a recipe file.

    Raises:
        UsageError: It is no YAML, or not of the form `key: value`.
    """
    content = value_of(text, where)
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise UsageError(f"{where}: a recipe is made of lines `key: value`, such as `epochs: 30`.")
    return content


def text_of(values: Mapping[str, object]) -> str:
    """The values as YAML, one key a line, in this order."""
    return yaml.dump(dict(values), Dumper=_Dumper, sort_keys=False, width=10_000, allow_unicode=True, default_flow_style=None)


def built_in() -> dict[str, str]:
    """The text of every recipe that comes with the package, by name."""
    folder = files("limbeck") / "recipes"
    found = [entry for entry in folder.iterdir() if entry.name.endswith(SUFFIXES[0])]
    return {
        entry.name.removesuffix(SUFFIXES[0]): entry.read_text(encoding="utf-8") for entry in sorted(found, key=lambda e: e.name)
    }


def summary_of(text: str) -> str:
    """The comment in the first line of a recipe."""
    first = text.split("\n", 1)[0]
    return first.lstrip("# ").strip() if first.startswith("#") else ""


def find(source: str | Path) -> tuple[str, str]:
    """Name and text of a built-in recipe or of a recipe file.

    Raises:
        UsageError: There is no such recipe, or it can't be read.
    """
    own, path = built_in(), Path(source)
    if str(source) in own:
        return str(source), own[str(source)]
    if path.is_file():
        return path.stem, _read(path)
    if path.is_dir():
        raise UsageError(f"{path} is a folder; give a recipe, or `--resume {path}` to go on with a run.")
    if path.suffix in SUFFIXES:
        beside = [str(other) for suffix in SUFFIXES for other in sorted(path.parent.glob(f"*{suffix}"))]
        near = nearest(str(path), beside) or "; `limbeck list recipes` shows the built-in ones."
        raise UsageError(f"there is no recipe file {path}{near}")
    here = [str(other) for suffix in SUFFIXES for other in sorted(Path().glob(f"[!.]*{suffix}"))]
    near = nearest(str(source), [*own, *here])
    also = f"; recipe files here: {', '.join(here[:5])}" if here else ""
    raise UsageError(f"there is no recipe '{source}'{near or ';'} built-in: {', '.join(own) or 'none'}{also}.")


def _read(path: Path) -> str:
    try:
        if path.stat().st_size > LARGEST_BYTES:
            raise UsageError(f"{path}: a recipe has at most {LARGEST_BYTES:,} bytes; this file is something else.")
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise UsageError(f"{path}: a recipe is text in UTF-8; this file is something else.") from None
    except OSError as error:
        raise UsageError(f"{path}: can't be read ({error.strerror}).") from error
