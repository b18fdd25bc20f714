"""The door to a term of one's own: a class, or a function that returns a term. Who may open it is decided elsewhere."""

from inspect import signature

from limbeck.core.errors import UsageError
from limbeck.core.objective import Objective
from limbeck.core.term import Term
from limbeck.core.user_code import user_function

Argument = str | int | float | bool | None | list["Argument"] | tuple["Argument", ...] | Term | Objective


def Python(target: str, **arguments: Argument) -> Term:
    """The term that the user's own class or function makes: `Python("my_terms:Mine", width=8) * 0.5 + CE()`.

    Importing the module runs the user's code; the recipe reader refuses it unless the user allows it. Modules are looked for in
    the current folder first.

    Args:
        target: "module:class" or "module:function".
        arguments: Handed on by name.

    Raises:
        UsageError: The target has another form, there is no such module or class, it does not take the arguments, or what it
            makes is no term.
    """
    name = f"Python({', '.join([repr(target), *(f'{key}={value!r}' for key, value in arguments.items())])})"
    maker = user_function(target, name)
    try:
        signature(maker).bind(**arguments)
    except TypeError as error:
        raise UsageError(f"{name}: it cannot be called like this: {error}.") from error
    made = maker(**arguments)
    if not isinstance(made, Term):
        raise UsageError(f"{name}: a limbeck Term is needed, got {type(made).__name__}; see the guide on extending.")
    return made
