"""The hub of trained models and data sets, asked only where it can be reached: without a network nobody waits for retries."""

import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

WAIT_S = 3.0
"""How long the hub may take to open its door, in seconds; the libraries would try for half a minute."""


@contextmanager
def hub(asked: bool = True) -> Iterator[str]:
    """Inside, the libraries of the Hugging Face hub take only what was downloaded before, where the hub cannot be reached.

    Gives the reason for a message then, and an empty text where the hub is there or is not asked. `HF_HUB_OFFLINE` holds.

    Args:
        asked: Whether what is wanted is on the hub at all.
    """
    constants = import_module("huggingface_hub.constants") if asked else None
    if constants is None or _reached(host := urlsplit(constants.ENDPOINT).hostname or ""):
        yield ""
        return
    switches: list[Any] = [constants, *(sys.modules[name] for name in ("datasets.config",) if name in sys.modules)]
    before = [module.HF_HUB_OFFLINE for module in switches]
    for module in switches:
        module.HF_HUB_OFFLINE = True
    try:
        yield f"{host} cannot be reached, and it was not downloaded before"
    finally:
        for module, was in zip(switches, before, strict=True):
            module.HF_HUB_OFFLINE = was


def _reached(host: str) -> bool:
    """Whether the host opens its door, or a proxy may know the way."""
    if getproxies():
        return True
    try:
        socket.create_connection((host, 443), timeout=WAIT_S).close()
    except OSError:
        return False
    return True
