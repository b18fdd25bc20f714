"""Constructor expressions: `KD(T=4) * 0.7 + CE() * 0.3` as text becomes objects, and no code is ever run.

The text is read by Python's own grammar, then walked over a short list of node types: a call of a bare name, numbers, texts,
true, false, none, lists, tuples and dicts of those, lists and tuples of calls, `+` and `*`. All else is refused, attribute
access first of all. This file knows nothing of recipes or of the catalogue: what may be named is handed in.
"""

import ast
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeGuard, Union

from limbeck.core.errors import LimbeckError, UsageError, nearest
from limbeck.core.user_code import DOOR
from limbeck.experiment.arguments import MisfitError, bind
from limbeck.experiment.mistakes import reader_of

Maker = Callable[..., object]
Literals = int | float | str | bool | None | list["Literals"] | tuple["Literals", ...] | dict["Literals", "Literals"]
Value = Union["Expression", list["Value"], tuple["Value", ...], Literals]
"""What an argument may be: a literal, an expression, or a list of either."""

LONGEST = 1000
DEEPEST = 40
LARGEST = 2**63


@dataclass(frozen=True)
class Names:
    """What may be named in an expression.

    Args:
        what: In words, for messages: "term".
        makers: Name to constructor.
        inner: The same for what stands inside the brackets of another; None takes `makers`.
        hint: Where to see all names: "`limbeck list terms` shows all".
        elsewhere: What a name is, when it is known but has no place here: {"EKFAC": "solver"}.
        suggest: What may have been meant by an unknown name, `; did you mean ...?`, or an empty text.
        example: One of the names, for messages; the first by the alphabet where none is given.
    """

    what: str
    makers: Mapping[str, Maker]
    inner: Mapping[str, Maker] | None = None
    hint: str = ""
    elsewhere: Mapping[str, str] = field(default_factory=dict)
    suggest: Callable[[str], str] | None = None
    example: str = ""

    def meant(self, name: str) -> str:
        """What may have been meant by an unknown name, as `nearest` says it."""
        return (self.suggest(name) if self.suggest else "") or nearest(name, self.makers)

    def inside(self) -> "Names":
        """The names that may stand in an argument."""
        return self if self.inner is None else Names("argument", self.inner, None, self.hint, self.elsewhere, self.suggest)


@dataclass(frozen=True)
class Call:
    """`KD(T=4)`: a known name whose arguments fit its signature. `build` makes the object, as often as it is called."""

    key: str
    name: str
    maker: Maker
    args: tuple["Value", ...]
    kwargs: Mapping[str, "Value"]

    def build(self) -> object:
        """Make the object.

        Raises:
            UsageError: The constructor refuses a value, or an inner object is not what its argument takes.
        """
        args = [_made(part) for part in self.args]
        kwargs = {name: _made(part) for name, part in self.kwargs.items()}
        try:
            bound = bind(self.maker, args, kwargs, built=True)
            return self.maker(*bound.args, **bound.kwargs)
        except MisfitError as wrong:
            raise UsageError(sentence(f"{self.key}: {self.name}{wrong}")) from None
        except LimbeckError as error:
            raise type(error)(f"{self.key}: {error}") from error
        except (TypeError, ValueError, ArithmeticError) as error:
            raise UsageError(f"{self.key}: {self.name} can't be made from these arguments: {error}.") from error


@dataclass(frozen=True)
class Combined:
    """A sum, or a product with a number."""

    key: str
    sign: str
    left: "Expression | float"
    right: "Expression | float"

    def build(self) -> object:
        """Make both sides and combine them.

        Raises:
            UsageError: These objects don't add up.
        """
        left, right = (side.build() if isinstance(side, Call | Combined) else side for side in (self.left, self.right))
        try:
            return left + right if self.sign == "+" else left * right  # type: ignore[operator]
        except TypeError as error:
            raise UsageError(
                f"{self.key}: only terms can be added and multiplied, as in 'KD(T=4) * 0.7 + CE() * 0.3'."
            ) from error
        except LimbeckError as error:
            raise type(error)(f"{self.key}: {error}") from error


Expression = Call | Combined


def _made(value: object) -> object:
    """The object that a value stands for; in a list or tuple, each of them."""
    if isinstance(value, list | tuple):
        return type(value)(map(_made, value))
    return value.build() if isinstance(value, Call | Combined) else value


def parse(text: str, names: Names, *, key: str, allow_python: bool = False) -> Expression:
    """Read an expression and check names and arguments; nothing is made before `build`.

    Args:
        text: What was typed, at most 1000 characters.
        names: What may be named.
        key: Where it was typed, such as `objective`; each message starts with it.
        allow_python: Let `Python("module:function")` stand, which imports code of the user's own.

    Raises:
        UsageError: The text is no such expression, or a name or an argument is not known.
    """
    if len(text) > LONGEST:
        raise UsageError(f"{key}: an expression has at most {LONGEST} characters, got {len(text)}.")
    text = text.strip()
    if reader := reader_of(text, names.makers):
        raise UsageError(sentence(f"{key}: {shown(text)} is a file; name what reads it, {reader}"))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the tokenizer's advice on odd literals; what is odd is refused below
            tree = ast.parse(text, mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        hint = _why(error) or (names.suggest(text.rpartition(":")[2]) if names.suggest else "")
        end = hint or f"; write it like a call, {_example(names)}"
        raise UsageError(sentence(f"{key}: can't read {shown(text)}{end}")) from None
    result = _Reader(key, text, allow_python).expression(tree.body, names, 0)
    if not isinstance(result, Call | Combined):
        raise UsageError(f"{key}: expected {_a(names.what)} such as {_example(names)}, got {shown(text)}.")
    return result


def apart(text: str) -> list[str]:
    """The expressions of a list, `MLP(width=64, depth=2), MLP()` with or without square brackets, each as its own text.

    What can't be read is left as it is, for `parse` to refuse.
    """
    bare = text.strip()
    listed = bare if bare.startswith("[") else f"[{bare}]"
    try:
        tree = ast.parse(listed, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return [text]
    parts = tree.elts if isinstance(tree, ast.List) else []
    return [ast.get_source_segment(listed, part) or text for part in parts] or [text]


def sentence(text: str) -> str:
    """The text with its full stop, unless it ends in a question."""
    return text if text.endswith("?") else f"{text}."


def shown(text: str) -> str:
    """The text in quotes on one line, cut where it is long."""
    return repr(text if len(text) <= 60 else text[:57] + "...")


def _why(error: Exception) -> str:
    """What is wrong with brackets and quotation marks, which Python's grammar can tell; all else is of no help here."""
    said = str(error.msg).partition(" (")[0] if isinstance(error, SyntaxError) else ""
    telling = ("was never closed", "unmatched", "does not match", "unterminated string")
    return f": {said}" if any(words in said for words in telling) else ""


def _a(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _example(names: Names) -> str:
    return f"{names.example or min(names.makers, default='Name')}(...)"


@dataclass(frozen=True)
class _Reader:
    key: str
    text: str
    allow_python: bool

    def source(self, node: ast.expr) -> str:
        # not ast.unparse: it recurses as deep as the text is nested
        return shown(ast.get_source_segment(self.text, node) or self.text)

    def refuse(self, why: str) -> UsageError:
        return UsageError(sentence(f"{self.key}: {why}"))

    def expression(self, node: ast.expr, names: Names, depth: int) -> Value:
        if depth > DEEPEST:
            raise self.refuse(f"the expression is nested more than {DEEPEST} deep")
        match node:
            case ast.Call(func=ast.Name(id=name)):
                return self.call(node, name, names, depth)
            case ast.BinOp(op=ast.Add()):
                return self.combine("+", node, names, depth)
            case ast.BinOp(op=ast.Mult()):
                return self.combine("*", node, names, depth)
            case ast.List(elts=parts):
                return [self.expression(part, names, depth + 1) for part in parts]
            case ast.Tuple(elts=parts):
                return tuple(self.expression(part, names, depth + 1) for part in parts)
            case ast.Name(id=name):
                self.maker(name, names)
                raise self.refuse(f"write {name} with its brackets, {name}()")
        return self.literal(node, depth)

    def literal(self, node: ast.expr, depth: int) -> "Literals":
        if depth > DEEPEST:
            raise self.refuse(f"the expression is nested more than {DEEPEST} deep")
        match node:
            case ast.Constant(value=bool() | str() | None as value):
                return value
            case ast.Constant(value=int() | float() as value) if abs(value) < LARGEST:
                return value
            case ast.UnaryOp(op=ast.USub() | ast.UAdd() as op):
                number = self.literal(node.operand, depth + 1)
                if _number(number):
                    return -number if isinstance(op, ast.USub) else number
            case ast.List(elts=parts):
                return [self.literal(part, depth + 1) for part in parts]
            case ast.Tuple(elts=parts):
                return tuple(self.literal(part, depth + 1) for part in parts)
            case ast.Dict(keys=keys, values=values) if all(isinstance(name, ast.Constant) for name in keys):
                return {
                    self.literal(name, depth + 1): self.literal(part, depth + 1)
                    for name, part in zip(keys, values, strict=True)
                    if name is not None
                }
        raise self.refuse(
            f"{self.source(node)} has no place here; an expression is made of names with brackets, literals, + and *"
        )

    def combine(self, sign: str, node: ast.BinOp, names: Names, depth: int) -> Value:
        left, right = (self.expression(side, names, depth + 1) for side in (node.left, node.right))
        if _number(left) and _number(right):
            value = left + right if sign == "+" else left * right
            if abs(value) < LARGEST:
                return value
            raise self.refuse("a number is too large")
        made = [isinstance(side, Call | Combined) for side in (left, right)]
        if (sign == "+" and all(made)) or (sign == "*" and any(made) and any(map(_number, (left, right)))):
            return Combined(self.key, sign, left, right)  # type: ignore[arg-type]
        rule = "two terms are added" if sign == "+" else "a term is multiplied by a number"
        raise self.refuse(f"{self.source(node)} can't be combined; {rule}")

    def call(self, node: ast.Call, name: str, names: Names, depth: int) -> Call:
        if name == DOOR and name in names.makers and not self.allow_python:
            raise self.refuse(f"{self.source(node)} runs code of your own; add --allow-python to the command if you trust it")
        maker = self.maker(name, names)
        words = [keyword.arg for keyword in node.keywords]
        if None in words or any(isinstance(part, ast.Starred) for part in node.args):
            raise self.refuse(f"{name}: write each argument out; * and ** have no place here")
        if len(set(words)) < len(words):
            raise self.refuse(f"{name} was given an argument twice")
        inside = names.inside()
        args = [self.expression(part, inside, depth + 1) for part in node.args]
        kwargs = {str(word.arg): self.expression(word.value, inside, depth + 1) for word in node.keywords}
        try:
            bind(maker, args, kwargs)
        except MisfitError as wrong:
            raise self.refuse(f"{name}{wrong}") from None
        return Call(self.key, name, maker, tuple(args), kwargs)

    def maker(self, name: str, names: Names) -> Maker:
        if name in names.makers:
            return names.makers[name]
        if name in names.elsewhere:
            is_a, wanted = _a(names.elsewhere[name]), _a(names.what)
            raise self.refuse(f"{name} is {is_a}; expected {wanted} such as {_example(names)}")
        near = names.meant(name)
        hint = f"{' ' if near else '; '}{names.hint}" if names.hint else ""
        raise self.refuse(f"there is no {names.what} called {shown(name)}{near}{hint}")


def _number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)
