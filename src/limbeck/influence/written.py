"""Compiled models run as they were written where hooks and tangents look on: the compiler leaves out hooks that come later."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def as_written() -> Iterator[None]:
    """What `torch.compile` made of a model is not used meanwhile, and nothing is compiled."""
    if "torch._dynamo" not in sys.modules:  # then nothing is compiled, and to load the compiler would take a second
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield
