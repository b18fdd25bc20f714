"""Any model at all: the user's own function."""

import inspect
from dataclasses import dataclass
from typing import ClassVar, final

from torch import nn

from limbeck.core.errors import UsageError
from limbeck.core.user_code import user_function
from limbeck.models.spec import Architecture, DataSpec, Kind

Literal = str | int | float | bool | None | list["Literal"] | tuple["Literal", ...] | dict[str, "Literal"]


@final
@dataclass(frozen=True, repr=False, init=False, eq=False)
class Python(Architecture):
    """The `nn.Module` that the user's function returns for a `DataSpec`: the one door to code of the user's own.

    `Python("nets:small", width=8)` imports `nets` and calls `small(spec, width=8)`. Nothing is imported before `build`. Who
    reads a recipe from elsewhere must ask the user first: building it runs that code.

    Args:
        function: "module:function", the module installed, on Python's search path or in the current folder.
        **arguments: Literals, handed on by name.

    Shapes: the module's forward takes `inputs` (and `mask`, if it names one) and returns logits [B, C] or [B, L, V].

    Raises:
        UsageError: The name is not of the form module:function.
    """

    takes: ClassVar[tuple[Kind, ...]] = ("image", "vector", "tokens")

    function: str
    arguments: tuple[tuple[str, Literal], ...]

    def __init__(self, function: str, **arguments: Literal) -> None:
        module, colon, name = function.partition(":")
        if not (colon and name.isidentifier() and all(part.isidentifier() for part in module.split("."))):
            raise UsageError(f'Python: expected "module:function", got {function!r}; write for example Python("nets:small").')
        object.__setattr__(self, "function", function)
        object.__setattr__(self, "arguments", tuple(arguments.items()))

    def make(self, spec: DataSpec) -> nn.Module:
        """What the function returns for this data.

        Raises:
            UsageError: It does not take these arguments, or returned something else than a module.
        """
        function, arguments = user_function(self.function, "Python"), dict(self.arguments)
        try:
            inspect.signature(function).bind(spec, **arguments)
        except TypeError as error:
            raise UsageError(
                f"Python: {self.function} is called with (spec{''.join(f', {name}=...' for name in arguments)}): {error}."
            ) from error
        model = function(spec, **arguments)
        if not isinstance(model, nn.Module):
            raise UsageError(f"Python: {self.function} must return a torch.nn.Module, got {type(model).__name__}.")
        return model

    def __repr__(self) -> str:
        return f"Python({', '.join([repr(self.function), *(f'{name}={value!r}' for name, value in self.arguments)])})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Python) and repr(self) == repr(other)

    def __hash__(self) -> int:
        return hash(repr(self))
