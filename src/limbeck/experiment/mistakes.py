"""A recipe's wrong values in words: one sentence in place of pydantic's own report."""

from collections.abc import Mapping

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
    return f"{key}: {words}, got {text if len(text) <= 60 else text[:57] + '...'}{hint}"
