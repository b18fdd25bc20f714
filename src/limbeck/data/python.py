"""The one door to a user's own code: a function that returns the data. Who may open it is decided elsewhere."""

from inspect import signature

import numpy as np
import torch
from torch import Tensor

from limbeck.core.errors import DataError, UsageError
from limbeck.core.user_code import user_function
from limbeck.data.arrays import as_inputs, prepare
from limbeck.data.files import as_labels
from limbeck.data.source import InMemory, Source
from limbeck.data.validity import check

Literal = str | int | float | bool | None


def Python(target: str, **arguments: Literal) -> Source:
    """What the user's function returns: a `Source`, or (inputs, labels) or (inputs, labels, truth) as tensors or arrays.

    Importing the module runs the user's code; the recipe reader refuses it unless the user allows it. Modules are looked for
    in the current folder first. int64 [N, L] are token ids; everything else is read as `Arrays` reads it.

    Args:
        target: "module:function".
        arguments: Handed to the function by name.

    Raises:
        UsageError: The target has another form, there is no such module or function, or it does not take the arguments.
        DataError: The function returns something else, or data that cannot be trained on.
    """
    said = ", ".join([repr(target), *(f"{key}={value!r}" for key, value in arguments.items())])
    name = f"Python({said})"
    function = user_function(target, name)
    try:
        signature(function).bind(**arguments)
    except TypeError as error:
        raise UsageError(f"{name}: the function cannot be called like this: {error}.") from error
    made = function(**arguments)
    if isinstance(made, Source):
        check(made)
        return made
    if not isinstance(made, tuple) or len(made) not in (2, 3) or not all(isinstance(part, Tensor | np.ndarray) for part in made):
        raise DataError(f"{name}: a Source, (inputs, labels) or (inputs, labels, truth) is needed, got {type(made).__name__}.")
    return _in_memory(made, name)


def _in_memory(made: tuple[Tensor, ...], name: str) -> InMemory:
    inputs, given = torch.as_tensor(made[0]), as_labels(made[1], f"{name}: labels", missing=True)
    truth = as_labels(made[2], f"{name}: true labels", missing=True) if len(made) == 3 else None
    tokens = inputs.dtype == torch.int64 and inputs.dim() == 2
    vocabulary = int(inputs.max()) + 1 if tokens and inputs.numel() else None
    source = InMemory(inputs if tokens else as_inputs(inputs, name), given, truth=truth, name=name, vocabulary=vocabulary)
    prepare(source)
    return source
