"""A recipe's mistakes in words: one sentence in place of pydantic's own report, and what may have been meant."""

import inspect
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path

from pydantic import ValidationError

from limbeck.core.errors import nearest

WORDS: Mapping[str, str] = {
    "missing": "is missing; add a line `{key}: ...`",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "string_type": "must be a text",
    "string_pattern_mismatch": "must be at most 64 letters, digits, dots, dashes and underscores, the first a letter or digit",
    "tuple_type": "must be a list in square brackets",
    "greater_than": "must be above {gt:g}",
    "greater_than_equal": "must be at least {ge:g}",
    "less_than": "must be below {lt:g}",
    "less_than_equal": "must be at most {le:g}",
    "literal_error": "must be one of {expected}",
}


READERS = {".npz": "Arrays", ".csv": "Table", ".tsv": "Table", ".parquet": "Table", ".jsonl": "Table", ".txt": "Text"}
"""What reads a file, by the end of its name."""

SYNONYMS: Mapping[str, str] = {"learning_rate": "lr", "temperature": "T"}
"""Arguments by the names that others give them."""


def as_argument(word: str, makers: Mapping[str, Callable[..., object]]) -> str:
    """`; it is an argument, ...` where a word that is no key is one of these constructors' arguments, or an empty text.

    Args:
        word: What was given as a key.
        makers: A constructor for each key, the first that takes the word is named.
    """
    word = SYNONYMS.get(word, word)
    for key, maker in makers.items():
        if word in inspect.signature(maker).parameters:
            return f"; it is an argument: write {key}: {maker.__name__}({word}=...)."
    return ""


def reader_of(text: str, makers: Mapping[str, object]) -> str | None:
    """`Table("mine.csv")` where a bare file stands in the place of what reads it and such may be named; None elsewhere."""
    bare = text.strip("\"' ")
    reader = READERS.get(Path(bare).suffix.lower())
    return f'{reader}("{bare}")' if reader in makers else None


def in_a_collection(name: str) -> str:
    """`; did you mean Torchvision("resnet18")?` where a collection of models has one of that name, or an empty text."""
    wanted = name.strip("\"'() ").lower()
    try:
        models = import_module("torchvision.models")
        if wanted in models.list_models(module=models):
            return f'; did you mean Torchvision("{wanted}")?'
        if import_module("timm").is_model(wanted):
            return f'; did you mean Timm("{wanted}")?'
    except ImportError:
        pass
    return ""


def in_words(error: ValidationError) -> str:
    """All that is wrong, in one sentence."""
    parts = [_one(detail) for detail in error.errors(include_url=False)]
    more = f" (and {len(parts) - 3} more)" if len(parts) > 3 else ""
    said = "; ".join(parts[:3]) + more
    return said if said.endswith("?") else f"{said}."


def _one(detail: Mapping[str, object]) -> str:
    key = str(detail["loc"][0]) if detail["loc"] else ""  # type: ignore[index]
    context, kind, value = detail.get("ctx") or {}, str(detail["type"]), detail.get("input")
    assert isinstance(context, dict)
    if kind == "value_error":
        return f"recipe: {context['error']}".removesuffix(".")
    words = WORDS.get(kind, str(detail["msg"]).lower()).format(key=key, **context)
    if kind == "missing":
        return f"recipe: {key} {words}"
    text = repr(value)
    hint = (
        nearest(str(value), str(context["expected"]).replace("'", "").replace(" or ", ", ").split(", "))
        if kind == "literal_error"
        else ""
    )
    if value is None:
        hint = "; leave the line out for the default"
    return f"{key}: {words}, got {text if len(text) <= 60 else text[:57] + '...'}{hint}"
