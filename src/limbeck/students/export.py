"""A finished net as one file that torch alone can load and run: no code of this package is needed any more."""

import io
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim

from limbeck.core.errors import UnsupportedModelError
from limbeck.core.files import write_whole


def export(model: nn.Module, example: Tensor | tuple[Tensor, ...], path: str | Path) -> Path:
    """Save the net, in evaluation mode, with `torch.export`; the number of samples in a batch stays free.

    Whoever uses it calls `torch.export.load(path).module()(inputs)`. The model itself is left as it was.

    Args:
        model: What `Distiller.deployed().model` gives.
        example: Inputs of at least one sample: a tensor [B, ...], or one per argument of the model's forward.
        path: The file, usually `.pt2`. It is there whole or not at all.

    Raises:
        UnsupportedModelError: The net cannot be exported.
        RunError: The disk is full or the folder cannot be written.
    """
    given = (example,) if isinstance(example, Tensor) else example
    inputs = tuple(torch.cat([part[:1], part[:1]]) for part in given)  # one sample alone would be taken for a constant
    modes = [(module, module.training) for module in model.modules()]
    try:
        with torch.no_grad():
            program = torch.export.export(model.eval(), inputs, dynamic_shapes=({0: Dim("batch")},) * len(inputs))
    except Exception as error:
        why = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UnsupportedModelError(f"export: {type(model).__name__} cannot be exported ({why}); keep its weights.") from error
    finally:
        for module, mode in modes:
            module.training = mode
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    write_whole(Path(path), buffer.getvalue())
    return Path(path)
